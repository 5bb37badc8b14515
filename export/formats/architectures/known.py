"""The architectures that are exported."""

from __future__ import annotations

from ...config import MistralConfig
from .architecture import Architecture
from .mistral import LLAMA, MINISTRAL, MISTRAL
from .qwen import QWEN2, QWEN3
from .smollm3 import SMOLLM3

ARCHITECTURES = {one.name: one for one in (LLAMA, MINISTRAL, MISTRAL, QWEN2, QWEN3, SMOLLM3)}


def architecture_of(config: MistralConfig) -> Architecture:
    """The class of transformers that computes a config, with the windows that it has."""
    own = ARCHITECTURES[config.architecture]
    other = own.with_layer_windows if config.layer_windows else own.with_window
    has_window = config.sliding_window is not None
    return ARCHITECTURES[other] if other and has_window else own
