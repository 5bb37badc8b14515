"""Which numbers does the PyTorch reference run on?"""

from __future__ import annotations

import torch

from .checkpoint import Checkpoint
from .config import MistralConfig
from .model import Mistral


def load_reference(config: MistralConfig, checkpoint: Checkpoint) -> Mistral:
    """Build the model in eval mode, every parameter float32 and read from the checkpoint.

    The caller's random state is left as it was.

    Raises:
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
    """
    # torch fills new layers at random, before their numbers arrive.
    with torch.random.fork_rng(devices=[]):
        model = Mistral(config)
    with torch.no_grad():
        # A tied head is the embedding itself, and named once.
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(checkpoint.read(name)))
    return model.requires_grad_(requires_grad=False).eval()
