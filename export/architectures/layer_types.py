"""Windows of layers: ``layer_types`` and ``sliding_window`` of a ``config.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...runtime.errors import ConfigError
from ...runtime.untrusted.fields import shown
from ..config import MistralConfig, Windows
from ..files.metadata_fields import number, texts
from .architecture import Published

_SLIDING, _FULL = "sliding_attention", "full_attention"


def window_of(published: Published, default: int | None) -> int | None:
    """``sliding_window``: a missing key means the default; an explicit null means none."""
    value = published.get("sliding_window", default)
    if value is None:
        return None
    return int(number({"sliding_window": value}, "sliding_window", int))


def kinds_of(published: Published) -> list[str]:
    """``layer_types``; empty where it is missing."""
    return texts(published, "layer_types")


def refuse_mixed(published: Published) -> None:
    """Refuse ``layer_types`` that differ, where transformers reads none.

    Raises:
        ConfigError: they differ.
    """
    if len(set(kinds_of(published))) > 1:
        raise ConfigError(
            "layer_types other than one kind for all layers is not supported for this "
            "architecture; where the layers do differ, correct architectures to "
            '["MinistralForCausalLM"] and model_type to "ministral"'
        )


def typed_windows(published: Published, window: int | None, slides: Sequence[bool]) -> Windows:
    """The window of each layer.

    Args:
        published: its ``layer_types`` decides, where it is there.
        window: of the layers that have one.
        slides: whether each layer has it, where ``layer_types`` is missing.

    Raises:
        ConfigError: ``layer_types`` has other kinds, or not one for each layer.

    Source: transformers 5.23, ``ALLOWED_ATTENTION_LAYER_TYPES`` for the kinds.
    """
    kinds = kinds_of(published)
    if not kinds:
        return tuple(window if is_windowed else None for is_windowed in slides)
    if len(kinds) != len(slides):
        raise ConfigError(
            f"layer_types has {len(kinds)} entries, expected one for each of the {len(slides)} "
            "layers of num_hidden_layers"
        )
    if unknown := sorted(set(kinds) - {_SLIDING, _FULL}):
        raise ConfigError(
            f"layer_types has {shown(unknown[0])}, expected {_FULL} and {_SLIDING}; other kinds "
            "of attention are not supported"
        )
    if window is None and _SLIDING in kinds:
        raise ConfigError(
            f"layer_types has {_SLIDING} and no window is given; expected sliding_window, with "
            "use_sliding_window where the architecture has that key"
        )
    return tuple(window if kind == _SLIDING else None for kind in kinds)


def windows_as_layer_types(config: MistralConfig) -> dict[str, Any]:
    """The same of a config; windows of several sizes have no key in transformers."""
    sizes = {window for window in config.windows if window is not None}
    return {
        "sliding_window": config.sliding_window,
        "layer_types": [_FULL if window is None else _SLIDING for window in config.windows],
        **({"layer_windows": list(config.windows)} if len(sizes) > 1 else {}),
    }
