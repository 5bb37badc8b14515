"""Qwen2, with biases of queries, keys and values; Qwen3, with norms of heads.

Source: transformers 5.23, configuration_qwen2.py, modeling_qwen2.py, and those of qwen3.
"""

from __future__ import annotations

from typing import Any

from ..config import MistralConfig, Windows
from ..files.metadata_fields import flag, number
from .architecture import Architecture, Published
from .layer_types import typed_windows, window_of, windows_as_layer_types

_WINDOW, _LAYERS_WITHOUT = 4096, 28


def _windows(published: Published, layers: int) -> Windows:
    """``layer_types``; without it the layers from ``max_window_layers`` on have the window."""
    window = window_of(published, _WINDOW) if flag(published, "use_sliding_window") else None
    first = number(published, "max_window_layers", int, _LAYERS_WITHOUT)
    return typed_windows(published, window, [layer >= first for layer in range(layers)])


def _as_json(config: MistralConfig) -> dict[str, Any]:
    windowed = [number for number, window in enumerate(config.windows) if window is not None]
    return {
        "use_sliding_window": bool(windowed),
        "max_window_layers": next(iter(windowed), config.num_hidden_layers),
        **windows_as_layer_types(config),
    }


QWEN2 = Architecture(
    name="Qwen2ForCausalLM",
    model_type="qwen2",
    max_position_embeddings=32768,
    windows=_windows,
    layers_as_json=_as_json,
    parts={"has_qkv_bias": True},
)
QWEN3 = Architecture(
    name="Qwen3ForCausalLM",
    model_type="qwen3",
    max_position_embeddings=32768,
    head_dim=128,
    windows=_windows,
    layers_as_json=_as_json,
    parts={"has_head_norms": True},
)
