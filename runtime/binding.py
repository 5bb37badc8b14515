"""Arrays bound to a graph's inputs and outputs, and the KV cache, updated in place.

Past and present of each layer are one array, which is how onnxruntime knows that nothing needs
copying.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import contract
from .ort_session import ort

CacheRows = npt.NDArray[np.float32] | npt.NDArray[np.int8]
_SCALARS = {keep: np.array(keep, np.int64) for keep in (0, 1)}


class Binding:
    """What one sequence's runs read and write; an interrupt leaves it usable.

    onnxruntime keeps addresses, not arrays: the arrays live here.
    """

    def __init__(self, graph: ort.InferenceSession, geometry: contract.Geometry) -> None:
        """Bind nothing yet."""
        self.handle = graph.io_binding()
        self.cache: list[CacheRows] = []  # (1, G, rows, D) each: key and value, layer by layer
        self.rows = 0  # that every layer has, and that are bound
        self._geometry = geometry
        self._ones = np.ones((1, geometry.max_positions), np.int64)
        self._bound: dict[str, npt.NDArray[Any]] = {}

    def tokens(
        self,
        ids: npt.NDArray[np.int64],
        logits: npt.NDArray[np.float32],
        *,
        keep: int,
        total: int,
    ) -> None:
        """Bind one run's tokens and logits.

        Args:
            ids: (1, T), contiguous.
            logits: (1, n, V), contiguous; n is 1, or T where ``keep`` is 0.
            keep: positions whose logits are computed, of the last; 0 for all.
            total: tokens of the sequence after this run.
        """
        self._bind(contract.INPUT_IDS, ids)
        self._bind(contract.ATTENTION_MASK, self._ones[:, :total])
        self._bind(contract.NUM_LOGITS_TO_KEEP, _SCALARS[keep])
        self._bind(contract.LOGITS, logits)

    def allocate(self, rows: int, *, held: int) -> None:
        """Give every layer of the cache this many rows; the first ``held`` keep their values."""
        if not rows:
            return
        self.rows = 0  # after an interrupt some layers have more rows than others: begin again
        shape = (1, self._geometry.num_key_value_heads, rows, self._geometry.head_dim)
        for index, names in enumerate(contract.cache_pairs(self._geometry)):
            new: CacheRows = np.zeros(shape, self._geometry.cache_dtype)
            if index < len(self.cache):
                new[:, :, :held] = self.cache[index][:, :, :held]
                self.cache[index] = new
            else:
                self.cache.append(new)
            value = ort.OrtValue.ortvalue_from_numpy(new)
            self.handle.bind_ortvalue_input(names[0], value)
            self.handle.bind_ortvalue_output(names[1], value)
        self.rows = rows

    def _bind(self, name: str, array: npt.NDArray[Any]) -> None:
        if self._bound.get(name) is array:  # a step rebinds its mask alone
            return
        self._bound.pop(name, None)  # after an interrupt it counts as unbound
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if name == contract.LOGITS:
            self.handle.bind_ortvalue_output(name, value)
        else:
            self.handle.bind_ortvalue_input(name, value)
        self._bound[name] = array
