"""Llama, Mistral and Ministral: one decoder, with no window, with one, or with one in some layers.

Source: transformers 5.23: ``LlamaConfig``, ``MistralConfig``, ``MinistralConfig``, and masks of
    ``MistralModel.forward`` and ``MinistralModel.forward``.
"""

from __future__ import annotations

from typing import Any

from ...runtime.errors import ConfigError
from ..config import MistralConfig, Windows
from .architecture import Architecture, Published
from .layer_types import refuse_mixed, typed_windows, window_of, windows_as_layer_types

_WINDOW = 4096


def _no_window(published: Published, layers: int) -> Windows:
    if published.get("sliding_window"):
        raise ConfigError(
            "a sliding_window, which LlamaForCausalLM ignores (remove it, or give --window) is "
            "not supported"
        )
    refuse_mixed(published)
    return (None,) * layers


def _one_window(published: Published, layers: int) -> Windows:
    refuse_mixed(published)
    return (window_of(published, _WINDOW),) * layers


def _windows_by_layer(published: Published, layers: int) -> Windows:
    window = window_of(published, _WINDOW)
    return typed_windows(published, window, [window is not None] * layers)


def _window_as_json(config: MistralConfig) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window}


MISTRAL = Architecture(
    name="MistralForCausalLM",
    model_type="mistral",
    max_position_embeddings=131072,
    windows=_one_window,
    layers_as_json=_window_as_json,
    with_layer_windows="MinistralForCausalLM",
    with_query_scale="Ministral3ForCausalLM",
)
LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_type="llama",
    max_position_embeddings=2048,
    has_as_many_kv_heads=True,
    windows=_no_window,
    layers_as_json=lambda _: {},
    with_window="MistralForCausalLM",
    with_layer_windows="MinistralForCausalLM",
)
MINISTRAL = Architecture(
    name="MinistralForCausalLM",
    model_type="ministral",
    max_position_embeddings=131072,
    windows=_windows_by_layer,
    layers_as_json=windows_as_layer_types,
)
