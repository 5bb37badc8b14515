"""Rows of one array of the KV cache by position: those that it holds, and evicted ones kept.

The array keeps the rule of ``cache.py``, in every kernel. A session that keeps K rows copies the
latest K rows of those that an eviction removes, before the run that evicts them:

    window 4, C = 6, hence E = 3, and K = 2:      kept    array
    after 6 tokens                                . .     0 1 2 3 4 5
    after 7 tokens                                1 2     3 4 5 6 . .
    the sequence ends after 5 again               . .     0 1 2 3 4 .    row 0 is no longer known

A query at position i reads no key before ``i - window + 1``, so the unknown row 0 is never read
from there on: the sequence may end at any position from ``oldest + window - 1``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..cache import CacheLayout

CacheRows = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.int8]


def lowest_end(layout: CacheLayout, oldest: int) -> int:
    """The least number of tokens after which a sequence may end whose rows are known from one on.

    >>> layout = CacheLayout(window=4, rows=6)
    >>> lowest_end(layout, 0), lowest_end(layout, 3)
    (0, 6)
    """
    return oldest + (layout.window or 1) - 1 if oldest else 0


class HeldRows:
    """Rows of the keys, or the values, of one layer; each is (G, D), of one position."""

    def __init__(self, layout: CacheLayout, array: CacheRows, *, keep: int) -> None:
        """Hold no rows yet.

        Args:
            layout: which rows the array holds.
            array: (1, G, C, D), which the graph reads and writes.
            keep: K; ignored where nothing is evicted.
        """
        self.layout = layout
        self.array = array
        self.oldest = 0  # no row before this position is known
        _, G, _, D = array.shape
        self._kept = np.zeros((G, 0 if layout.rows is None else keep, D), array.dtype)

    @property
    def size_bytes(self) -> int:
        """Memory of both arrays."""
        return self.array.nbytes + self._kept.nbytes

    @property
    def lowest_end(self) -> int:
        """The least number of tokens after which the sequence may end; 0 is always possible."""
        return lowest_end(self.layout, self.oldest)

    def forget(self) -> None:
        """Begin an empty sequence."""
        self.oldest = 0

    def keep_evicted(self, tokens: int, *, until: int) -> None:
        """Before a run from ``tokens`` to ``until`` tokens: keep rows that it evicts."""
        K = self._kept.shape[1]
        gone = min(self.layout.first(until), tokens) - self.layout.first(tokens)
        count = min(gone, K)
        if count <= 0:
            return
        self._kept[:, : K - count] = self._kept[:, count:]
        self._kept[:, K - count :] = self.array[0, :, gone - count : gone]

    def note_evicted(self, tokens: int) -> None:
        """After a run that made the sequence ``tokens`` tokens long."""
        self.oldest = max(self.oldest, self.layout.first(tokens) - self._kept.shape[1])

    def read(self, start: int, stop: int, *, tokens: int) -> CacheRows:
        """Copies of the rows (G, n, D) of positions from ``start``, known, to before ``stop``.

        Args:
            start, stop: positions.
            tokens: of the sequence.
        """
        first = self.layout.first(tokens)
        kept_from = first - self._kept.shape[1]
        kept = self._kept[:, max(start - kept_from, 0) : max(min(stop, first) - kept_from, 0)]
        held = self.array[0, :, max(start - first, 0) : max(stop - first, 0)]
        return np.concatenate([kept, held], axis=1)

    def write(self, rows: CacheRows, start: int, *, tokens: int) -> None:
        """Make the sequence ``tokens`` long; ``rows`` are those of positions from ``start``."""
        first, K = self.layout.first(tokens), self._kept.shape[1]
        count = min(max(first - start, 0), K)
        before = max(first - start, 0)
        self._kept[:, K - count :] = rows[:, before - count : before]
        self.array[0, :, max(start - first, 0) : tokens - first] = rows[:, before:]
        self.oldest = max(start, first - K)

    def shorten(self, tokens: int, *, until: int) -> None:
        """Make the sequence end after ``until`` tokens, at least ``lowest_end``."""
        if self.layout.first(tokens) == self.layout.first(until):
            return
        start = min(max(self.oldest, self.layout.first(until) - self._kept.shape[1]), until)
        self.write(self.read(start, until, tokens=tokens), start, tokens=until)
