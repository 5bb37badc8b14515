"""Arrays bound to a graph's inputs and outputs, and the KV cache, updated in place.

Past and present of each layer are one array, which is how onnxruntime knows that nothing needs
copying.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import contract
from ..cache import growing_rows
from ..ort.ort_session import ort
from .held_rows import CacheRows, HeldRows

_SCALARS = {keep: np.array(keep, np.int64) for keep in (0, 1)}


class Binding:
    """What one sequence's runs read and write; an interrupt leaves it usable.

    onnxruntime keeps addresses, not arrays: the arrays live here.
    """

    def __init__(
        self, graph: ort.InferenceSession, geometry: contract.Geometry, *, keep: int = 0
    ) -> None:
        """Bind nothing yet; each layer is to keep so many evicted rows."""
        self.handle: Any = graph.io_binding()
        self.rows: list[HeldRows] = []  # key and value, layer by layer
        self.capacity = 0  # tokens for which every layer has rows, which are bound
        self._geometry = geometry
        self._keep = keep
        self._ones = np.ones((1, growing_rows(1, most=geometry.max_positions)), np.int64)
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
        if total > self._ones.shape[1]:
            most = self._geometry.max_positions
            self._ones = np.ones((1, growing_rows(total, most=most)), np.int64)
        self._bind(contract.INPUT_IDS, ids)
        self._bind(contract.ATTENTION_MASK, self._ones[:, :total])
        self._bind(contract.NUM_LOGITS_TO_KEEP, _SCALARS[keep])
        self._bind(contract.LOGITS, logits)

    def reserve(self, tokens: int, *, held: int) -> None:
        """Give every layer of the cache the rows for ``tokens`` tokens.

        Rows of the first ``held`` tokens keep their values.
        """
        geometry, most = self._geometry, self._geometry.max_positions
        self.capacity = 0  # after an interrupt some layers have more rows than others: begin again
        for index, names in enumerate(contract.cache_pairs(geometry)):
            layout = geometry.layers[index // len(contract.KINDS)]
            rows, kept = layout.allocated(tokens, most=most), layout.held(held)
            shape = (1, geometry.num_key_value_heads, rows, geometry.head_dim)
            if index == len(self.rows):
                new: CacheRows = np.zeros(shape, geometry.cache_dtype)
                self.rows.append(HeldRows(layout, new, keep=self._keep))
            elif self.rows[index].array.shape != shape:
                new = np.zeros(shape, geometry.cache_dtype)
                new[:, :, :kept] = self.rows[index].array[:, :, :kept]
                self.rows[index].array = new
            value = ort.OrtValue.ortvalue_from_numpy(self.rows[index].array)
            self.handle.bind_ortvalue_input(names[0], value)
            self.handle.bind_ortvalue_output(names[1], value)
        self.capacity = most if geometry.is_bounded else growing_rows(tokens, most=most)

    def release(self) -> None:
        """Free all arrays; nothing can be bound afterwards."""
        self.handle, self.capacity = None, 0
        self.rows.clear()
        self._bound.clear()

    def repeat(self, tokens: int, *, until: int) -> None:
        """Fill the rows that a sequence of ``until`` tokens holds beyond those of ``tokens``.

        They become copies of the rows held; where none are, they stay as they are.
        """
        for each in self.rows:
            held, wanted = each.layout.held(tokens), each.layout.held(until)
            for start in range(held, wanted, held) if held else ():
                count = min(held, wanted - start)
                each.array[:, :, start : start + count] = each.array[:, :, :count]

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
