"""Rounds one matrix for the inputs that it would have in another layer: a fault to be planted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...graphs.quantization.codes import Blocks
from ...graphs.quantization.scheme import Scheme
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from ..formats.tensor_names import EMBEDDING
from ..model.load import load_layer
from ..model.rope import rope_tables
from .gptq import Correlations, correlations, gptq
from .layer_walk import Inputs, walk_layer


def round_for_first_layer(
    config: MistralConfig, checkpoint: Checkpoint, number: int, name: str, scheme: Scheme
) -> Blocks:
    """Round a layer's matrix for what the same matrix of layer 0 gets of random tokens.

    Args:
        config, checkpoint: the model.
        number: of the layer.
        name: of the matrix in it, such as ``mlp.down``.
        scheme: bits and block.
    """
    length = min(512, config.max_position_embeddings)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, length)
    hidden = [torch.from_numpy(checkpoint.read(EMBEDDING)[tokens])]
    seen = _Correlations(name)
    layer = load_layer(config, checkpoint, 0, grows=True)
    walk_layer(layer, config, rope_tables(config), hidden, seen)
    return gptq(checkpoint.read(f"layers.{number}.{name}.weight"), scheme, seen.found)


class _Correlations:
    """A visitor that keeps how the inputs of one matrix correlate."""

    found: Correlations

    def __init__(self, name: str) -> None:
        self._name = name

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        if self._name in names:
            every = list(inputs())
            self.found = correlations(every, columns=every[0].shape[1])

    def see_cache(self, keys: Tensor, values: Tensor) -> None:
        """Not asked for."""
