"""The largest magnitude of each channel of one layer's keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...graphs.quantization.activation_ranges import LayerMaxima
from .layer_walk import Inputs


class Maxima:
    """A visitor of one layer."""

    def __init__(self) -> None:
        self._found: dict[str, np.ndarray] = {}

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        """Inputs of matrices are neither keys nor values."""

    def see_cache(self, keys: Tensor, values: Tensor) -> None:
        """Note keys and values, (T, G, D) each."""
        self._note("keys", keys)
        self._note("values", values)

    def done(self) -> LayerMaxima:
        """What was found."""
        return LayerMaxima(**self._found)

    def _note(self, kind: str, rows: Tensor) -> None:
        found = np.asarray(rows.abs().amax(dim=0).numpy())
        self._found[kind] = np.maximum(found, self._found.get(kind, 0))
