"""Which numbers does the PyTorch reference run on?"""

from __future__ import annotations

import torch
from torch import nn

from .attention import rope_tables
from .checkpoint import Checkpoint
from .config import MistralConfig
from .model import Mistral


def load_reference(config: MistralConfig, checkpoint: Checkpoint) -> Mistral:
    """Build the model in eval mode, every parameter float32 and read from the checkpoint.

    The caller's random state is left as it was, and no parameter is held twice.

    Args:
        config: the checkpoint's own, or that with another window.
        checkpoint: what the parameters are read from.

    Raises:
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
    """
    with torch.device("meta"):  # sizes without numbers: torch would fill new layers at random
        model = Mistral(config)
    # A tied head is the embedding itself, and named once.
    for name, _ in list(model.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        values = torch.from_numpy(checkpoint.read(name))
        setattr(model.get_submodule(owner), attribute, nn.Parameter(values, requires_grad=False))
    if config.tie_word_embeddings:
        model.head.weight = model.embedding.weight
    model.cos_cache, model.sin_cache = rope_tables(
        positions=config.max_position_embeddings,
        head_dim=config.head_dim,
        theta=config.rope_theta,
    )
    return model.eval()
