"""The largest magnitude of each channel of one layer's activations, keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...graphs.quantization.activation_ranges import LayerMaxima
from .layer_walk import Inputs

_OF = {"attention.query": "attention_input", "mlp.gate": "mlp_input"}


class Maxima:
    """A visitor of one layer."""

    def __init__(self) -> None:
        self._found: dict[str, np.ndarray] = {}

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        """Note what norms yield; other inputs have scales of their own for each position."""
        if names[0] in _OF:
            for x in inputs():
                self._note(_OF[names[0]], x)

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
