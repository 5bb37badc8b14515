"""Several sequences whose next tokens are computed in one run: one cache with a row for each.

Each sequence is read alone, in a session of its own, and copied in: no padding, so that every
graph takes sequences of different lengths. A run appends one token to each of them. The graph
counts each one's tokens by its row of the attention mask, so each evicts rows when it would alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import contract
from .cache import growing_rows
from .ort.ort_session import ort, run_bound
from .sequences.held_rows import CacheRows
from .sequences.sequence import CachedSequence

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
_KEEP_LAST = np.array(1, np.int64)


def batch_bytes(geometry: contract.Geometry, *, most: int, tokens: int) -> int:
    """Memory of a ``Batch`` of so many sequences; ``tokens`` are those of the longest."""
    rows = sum(layer.allocated(tokens, most=geometry.max_positions) for layer in geometry.layers)
    return most * (rows * geometry.layer_row_bytes + 4 * geometry.vocab_size)


class Batch:
    """Sequences that advance together, numbered as they stand in the cache.

    The first ``count`` rows of each array are in use: a sequence that leaves gives its place to
    the last one.
    """

    def __init__(
        self,
        graph: ort.InferenceSession,
        geometry: contract.Geometry,
        *,
        most: int,
        tokens: int,
        artifact: Path,
    ) -> None:
        """Hold no sequence yet.

        Args:
            graph, geometry: the model's.
            most: sequences that there is room for.
            tokens: of the longest, at its end.
            artifact: its folder, which messages name.
        """
        self.count = 0
        self._graph: Any = graph
        self._handle: Any = graph.io_binding()
        self._artifact = artifact
        self._names = contract.cache_pairs(geometry)
        self._layouts = [layer for layer in geometry.layers for _ in contract.KINDS]
        # Memory that is not written yet is none: a growing cache needs no copies to larger arrays.
        G, D = geometry.num_key_value_heads, geometry.head_dim
        self._arrays: list[CacheRows] = [
            np.zeros(
                (most, G, layout.allocated(tokens, most=geometry.max_positions), D),
                geometry.cache_dtype,
            )
            for layout in self._layouts
        ]
        self._lengths = np.zeros(most, np.int64)
        self._ids = np.zeros((most, 1), np.int64)
        self._logits: Floats = np.zeros((most, 1, geometry.vocab_size), np.float32)
        self._positions = np.arange(growing_rows(tokens, most=geometry.max_positions))
        self._bound = 0  # sequences whose part of the arrays is bound

    def add(self, sequence: CachedSequence) -> None:
        """Copy a sequence in, behind the others."""
        place, tokens = self.count, sequence.tokens
        for array, layout, rows in zip(
            self._arrays, self._layouts, sequence.binding.rows, strict=True
        ):
            held = layout.held(tokens)
            array[place, :, :held] = rows.array[0, :, :held]
        self._lengths[place] = tokens
        self.count += 1

    def remove(self, place: int) -> None:
        """Let a sequence go; the last one moves to its place."""
        last = self.count - 1
        if place != last:
            tokens = int(self._lengths[last])
            for array, layout in zip(self._arrays, self._layouts, strict=True):
                held = layout.held(tokens)
                array[place, :, :held] = array[last, :, :held]
            self._lengths[place] = tokens
        self.count = last

    def step(self, tokens: list[int]) -> Floats:
        """Append one token to each sequence; logits (B, V) of the next, until the next step.

        Raises:
            ContractError: onnxruntime cannot.
        """
        B = self.count
        self._ids[:B, 0] = tokens
        lengths = self._lengths[:B] + 1
        mask = (self._positions[: lengths.max()] < lengths[:, None]).astype(np.int64)
        inputs = {
            contract.INPUT_IDS: self._ids[:B],
            contract.ATTENTION_MASK: mask,
            contract.NUM_LOGITS_TO_KEEP: _KEEP_LAST,
        }
        for name, array in inputs.items():
            self._handle.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        if self._bound != B:
            self._bind(B)
        run_bound(self._graph, self._handle, artifact=self._artifact, num_tokens=B)
        self._lengths[:B] = lengths
        return np.asarray(self._logits[:B, 0])

    def release(self) -> None:
        """Free all arrays and the graph."""
        self._graph = self._handle = None
        self._arrays = []
        self.count = 0

    def _bind(self, B: int) -> None:
        """Bind the part of the cache and the logits that so many sequences use."""
        for array, (past, present) in zip(self._arrays, self._names, strict=True):
            value = ort.OrtValue.ortvalue_from_numpy(array[:B])
            self._handle.bind_ortvalue_input(past, value)
            self._handle.bind_ortvalue_output(present, value)
        logits = ort.OrtValue.ortvalue_from_numpy(self._logits[:B])
        self._handle.bind_ortvalue_output(contract.LOGITS, logits)
        self._bound = B
