"""A copy of a session's sequence: its tokens, and the rows of the KV cache that are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .held_rows import CacheRows

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, weakref_slot=True)
class Snapshot:
    """What ``session.snapshot()`` returns; sessions of the same artifact can restore it.

    A session finds its snapshots when it must go back further than its own rows allow, as long as
    somebody holds them: drop the last reference to free the memory.
    """

    artifact: str  # hash of the manifest
    ids: Integers  # (T,), the tokens; -1 where they were skipped by ``seek``
    rows: tuple[CacheRows, ...]  # (G, T - start, D): keys and values, layer by layer
    starts: tuple[int, ...]  # the first position of each of ``rows``
    lowest_end: int  # the least number of its tokens that a sequence can go back to

    def __post_init__(self) -> None:
        for array in (self.ids, *self.rows):
            array.flags.writeable = False

    @property
    def tokens(self) -> int:
        """Tokens of the sequence."""
        return len(self.ids)

    @property
    def size_bytes(self) -> int:
        """Memory of the copies."""
        return self.ids.nbytes + sum(rows.nbytes for rows in self.rows)


def common_prefix(first: Integers, second: Integers) -> int:
    """How many tokens two sequences begin with alike.

    >>> common_prefix(np.array([5, 6, 7]), np.array([5, 6, 8, 9]))
    2
    """
    length = min(len(first), len(second))
    differing = np.flatnonzero(first[:length] != second[:length])
    return int(differing[0]) if len(differing) else length
