"""A weight of the base model with a LoRA adapter added, computed in float32 while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..rope_layout import halves_to_pairs
from ..weight_files.stored_tensor import Floats, TensorSource


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedTensor:
    """``base + scale * B @ A``; of an embedding, ``base + scale * (B @ A).T``.

    Source: LoRA, arXiv:2106.09685; PEFT 0.21, ``Linear.get_delta_weight`` and
        ``Embedding.get_delta_weight`` in tuners/lora/layer.py.
    """

    base: TensorSource
    a: TensorSource
    b: TensorSource
    scale: float
    is_embedding: bool = False
    pairs_of: int | None = None  # head size where the base has rope layout ``pairs``; B has halves

    @property
    def path(self) -> Path:
        """The adapter's file."""
        return self.a.path

    @property
    def name(self) -> str:
        """The base model's and its file, since the fault that a message names may be in either."""
        return f"{self.base.name} (of {self.base.path}) with its adapter"

    @property
    def dtype(self) -> str:
        """Of the sum."""
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """The base's."""
        return self.base.shape

    def slices(self, rows: int) -> Iterator[Floats]:
        """Yield ``rows`` rows at a time, float32; A and B are whole in memory meanwhile.

        Raises:
            CheckpointError: a file is unreadable.
        """
        a, b = _whole(self.a), _whole(self.b)
        if self.pairs_of is not None:
            b = halves_to_pairs(b, head_dim=self.pairs_of)
        start = 0
        for values in self.base.slices(rows):
            end = start + len(values)
            with np.errstate(invalid="ignore", over="ignore"):  # the checkpoint looks for it
                delta = (b @ a[:, start:end]).T if self.is_embedding else b[start:end] @ a
                yield values + np.float32(self.scale) * delta
            start = end


def _whole(tensor: TensorSource) -> Floats:
    return np.concatenate(list(tensor.slices(tensor.shape[0])))
