"""Which numbers does the PyTorch reference run on?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from .attention import rope_tables
from .model import Layer, Mistral, RmsNorm

Module = TypeVar("Module", bound=nn.Module)


def load_reference(config: MistralConfig, checkpoint: Checkpoint) -> Mistral:
    """Build the whole model in eval mode, every parameter float32 and read from the checkpoint.

    The caller's random state is left as it was, and no parameter is held twice.

    Args:
        config: the checkpoint's own, or that with another window.
        checkpoint: what the parameters are read from.

    Raises:
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
    """
    model = _filled(lambda: Mistral(config), checkpoint, prefix="")
    if config.tie_word_embeddings:
        model.head.weight = model.embedding.weight
    model.cos_cache, model.sin_cache = rope_of(config)
    return model


def load_layer(config: MistralConfig, checkpoint: Checkpoint, number: int) -> Layer:
    """Build one layer alone, likewise."""
    return _filled(lambda: Layer(config), checkpoint, prefix=f"layers.{number}.")


def load_last_norm(config: MistralConfig, checkpoint: Checkpoint) -> RmsNorm:
    """Build the norm in front of the head alone, likewise."""
    return _filled(lambda: RmsNorm(config), checkpoint, prefix="norm.")


def rope_of(config: MistralConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of all positions: each (P, D / 2) float32."""
    return rope_tables(
        positions=config.max_position_embeddings,
        head_dim=config.head_dim,
        theta=config.rope_theta,
    )


def _filled(make: Callable[[], Module], checkpoint: Checkpoint, *, prefix: str) -> Module:
    with torch.device("meta"):  # sizes without numbers: torch would fill new layers at random
        module = make()
    # A tied head is the embedding itself, and named once.
    for name, _ in list(module.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        values = torch.from_numpy(checkpoint.read(prefix + name))
        parameter = nn.Parameter(values, requires_grad=False)
        setattr(module.get_submodule(owner), attribute, parameter)
    return module.eval()
