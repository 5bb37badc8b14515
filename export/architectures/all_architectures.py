"""The architectures that are exported."""

from __future__ import annotations

from ..config import MistralConfig
from .architecture import Architecture
from .ministral3 import MINISTRAL_3
from .mistral import LLAMA, MINISTRAL, MISTRAL
from .qwen import QWEN2, QWEN3
from .smollm3 import SMOLLM3

ARCHITECTURES = {
    one.name: one for one in (LLAMA, MINISTRAL, MINISTRAL_3, MISTRAL, QWEN2, QWEN3, SMOLLM3)
}


def architecture_of(config: MistralConfig) -> Architecture:
    """The class of transformers that computes a config, with the windows that it has."""
    own = ARCHITECTURES[config.architecture]
    if config.query_scale is not None and own.with_query_scale:
        return ARCHITECTURES[own.with_query_scale]
    other = own.with_layer_windows if config.layer_windows else own.with_window
    has_window = config.sliding_window is not None
    return ARCHITECTURES[other] if other and has_window else own
