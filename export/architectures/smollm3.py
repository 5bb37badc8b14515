"""SmolLM3, in which rope rotates nothing in some layers.

Source: transformers 5.23: ``SmolLM3Config``, ``SmolLM3Attention``.
"""

from __future__ import annotations

from typing import Any

from ...runtime.errors import ConfigError
from ..config import MistralConfig, Windows
from ..files.metadata_fields import flag, listed, number
from .architecture import Architecture, Published
from .layer_types import typed_windows, window_of, windows_as_layer_types

_EVERY = 4


def _unrotated_layers(published: Published, layers: int) -> tuple[int, ...]:
    """``no_rope_layers``: 1 where a layer has rope; without it every fourth has none."""
    has_rope = listed(published, "no_rope_layers", int)
    every = number(published, "no_rope_layer_interval", int, _EVERY)
    if every < 1:
        raise ConfigError(f"no_rope_layer_interval is {every}; expected at least 1")
    if not has_rope:
        return tuple(range(every - 1, layers, every))
    if len(has_rope) < layers:
        raise ConfigError(
            f"no_rope_layers has {len(has_rope)} entries, expected one for each of the {layers} "
            "layers of num_hidden_layers"
        )
    return tuple(number for number in range(layers) if not has_rope[number])


def _windows(published: Published, layers: int) -> Windows:
    """``layer_types``; without it the layers without rope have the window, if there is one."""
    window = window_of(published, None) if flag(published, "use_sliding_window") else None
    unrotated = _unrotated_layers(published, layers)
    return typed_windows(published, window, [layer in unrotated for layer in range(layers)])


def _as_json(config: MistralConfig) -> dict[str, Any]:
    layers = range(config.num_hidden_layers)
    return {
        "no_rope_layers": [int(layer not in config.unrotated_layers) for layer in layers],
        "use_sliding_window": any(window is not None for window in config.windows),
        **windows_as_layer_types(config),
    }


SMOLLM3 = Architecture(
    name="SmolLM3ForCausalLM",
    model_type="smollm3",
    rope_theta=2000000.0,
    max_position_embeddings=32768,
    tie_word_embeddings=True,
    windows=_windows,
    layers_as_json=_as_json,
    unrotated_layers=_unrotated_layers,
)
