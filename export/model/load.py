"""Load the PyTorch reference, or parts of it, with the checkpoint's weights in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ..cache_choice import WINDOWED, CacheChoice
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from .model import Layer, Mistral, RmsNorm
from .rope import rope_tables

Module = TypeVar("Module", bound=nn.Module)


def load_reference(
    config: MistralConfig, checkpoint: Checkpoint, cache: CacheChoice = WINDOWED
) -> Mistral:
    """Build the whole model in eval mode; every parameter is float32, from the checkpoint.

    The caller's random state does not change, and no parameter is in memory twice.

    Args:
        config: the checkpoint's, or the same with another window.
        checkpoint: source of the parameters.
        cache: how the model holds keys and values.

    Raises:
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
    """
    model = _filled(lambda: Mistral(config, cache), checkpoint, prefix="")
    if config.tie_word_embeddings:
        model.head.weight = model.embedding.weight
    model.cos_cache, model.sin_cache = rope_tables(config)
    return model


def load_layer(
    config: MistralConfig, checkpoint: Checkpoint, number: int, *, grows: bool = False
) -> Layer:
    """Build one layer, in the same way; ``grows``: its cache keeps rows that a window hides."""
    return _filled(
        lambda: Layer(config, number, grows=grows), checkpoint, prefix=f"layers.{number}."
    )


def load_last_norm(config: MistralConfig, checkpoint: Checkpoint) -> RmsNorm:
    """Build the norm before the head, in the same way."""
    return _filled(lambda: RmsNorm(config), checkpoint, prefix="norm.")


def _filled(make: Callable[[], Module], checkpoint: Checkpoint, *, prefix: str) -> Module:
    with torch.device("meta"):  # no values: torch would fill new layers at random
        module = make()
    # A tied head is the embedding itself; its name comes once.
    for name, _ in list(module.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        values = torch.from_numpy(checkpoint.read(prefix + name))
        parameter = nn.Parameter(values, requires_grad=False)
        setattr(module.get_submodule(owner), attribute, parameter)
    return module.eval()
