"""A sequence of tokens and the KV cache that holds them: runs the graph, goes back, is copied.

It knows nothing of threads and interrupts, which are the session's.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract import Geometry
from ..ort.ort_session import ort, run_bound
from .binding import Binding
from .held_rows import CacheRows
from .snapshot import Integers, Snapshot, common_prefix

Floats = npt.NDArray[np.float32]


class CachedSequence:
    """Tokens so far, their ids, and the rows of the cache."""

    def __init__(
        self, graph: ort.InferenceSession, geometry: Geometry, *, artifact: Path, keep: int
    ) -> None:
        """Begin an empty sequence.

        Args:
            graph, geometry: the model's.
            artifact: its folder, which messages name.
            keep: evicted rows that each layer keeps.
        """
        self.graph: Any = graph
        self._artifact = artifact
        self.tokens = 0
        self.binding = Binding(graph, geometry, keep=keep)
        self._ids = np.zeros(geometry.max_positions, np.int64)
        self._snapshots: weakref.WeakSet[Snapshot] = weakref.WeakSet()
        self._layouts = set(geometry.layers)
        bounded = [layer.window for layer in self._layouts if layer.rows is not None]
        # Rows that are computed and evicted in one run could not be kept.
        self.longest_run = min((W for W in bounded if W), default=None) if keep else None

    @property
    def ids(self) -> Integers:
        """The tokens (T,), read in place; -1 where they were skipped."""
        return self._ids[: self.tokens]

    @property
    def lowest_end(self) -> int:
        """The least number of tokens that the sequence can end after, by the rows known."""
        return max((rows.lowest_end for rows in self.binding.rows), default=0)

    @property
    def lowest_end_by_snapshot(self) -> int:
        """The same by the snapshots of this sequence; the number of tokens if there is none."""
        lowest = self.tokens
        for snapshot in self._snapshots:
            if snapshot.lowest_end <= common_prefix(snapshot.ids, self.ids):
                lowest = min(lowest, snapshot.lowest_end)
        return lowest

    @property
    def room(self) -> int:
        """How many tokens can follow before rows are evicted, or a growing cache must grow."""
        room = self.binding.capacity - self.tokens
        for layout in self._layouts:
            of_layer = layout.room(self.tokens)
            room = room if of_layer is None else min(room, of_layer)
        return room

    def compute(self, ids: Integers, logits: Floats, *, keep: int) -> None:
        """Run the graph on ids (1, T) after the sequence, without appending them.

        Args:
            ids: contiguous.
            logits: (1, n, V), contiguous, to be filled.
            keep: positions whose logits are computed, of the last; 0 for all.
        """
        num_tokens = ids.shape[1]
        total = self.tokens + num_tokens
        for rows in self.binding.rows:
            rows.keep_evicted(self.tokens, until=total)
        self.binding.tokens(ids, logits, keep=keep, total=total)
        run_bound(self.graph, self.binding.handle, artifact=self._artifact, num_tokens=num_tokens)

    def append(self, ids: npt.ArrayLike, *, count: int) -> None:
        """Count tokens whose rows the cache holds now."""
        total = self.tokens + count
        self._ids[self.tokens : total] = ids
        for rows in self.binding.rows:
            rows.note_evicted(total)
        self.tokens = total

    def skip(self, count: int) -> None:
        """Append tokens that are not computed; rows held before stand in for theirs."""
        self.binding.repeat(self.tokens, until=self.tokens + count)
        self._snapshots.clear()  # the tokens between could not be computed again
        self.append(-1, count=count)

    def forget(self) -> None:
        """Begin an empty sequence; snapshots are kept."""
        self.tokens = 0
        for rows in self.binding.rows:
            rows.forget()

    @property
    def starts(self) -> tuple[int, ...]:
        """The first position whose row is known: of keys and values, layer by layer."""
        return tuple(rows.oldest for rows in self.binding.rows)

    def known_rows(self) -> Iterator[CacheRows]:
        """Copies (G, T - start, D) of the rows from those positions on, one after the other."""
        for rows, start in zip(self.binding.rows, self.starts, strict=True):
            yield rows.read(start, self.tokens, tokens=self.tokens)

    def snapshot_bytes(self) -> int:
        """Memory that a snapshot would take."""
        return self.ids.nbytes + sum(
            (self.tokens - start) * rows.array[0, :, 0].nbytes
            for rows, start in zip(self.binding.rows, self.starts, strict=True)
        )

    def snapshot(self, artifact: str) -> Snapshot:
        """Copy tokens and known rows; an artifact's hash goes with them."""
        snapshot = Snapshot(
            artifact=artifact,
            ids=self.ids.copy(),
            rows=tuple(self.known_rows()),
            starts=self.starts,
            lowest_end=self.lowest_end,
        )
        self._snapshots.add(snapshot)
        return snapshot

    def reachable(self, wanted: Integers) -> tuple[int, Snapshot | None]:
        """How many of the tokens ``wanted`` the sequence can begin with without computing any.

        Returns:
            The number, at most ``len(wanted)``, and the snapshot to restore, or None where the
            sequence's own rows suffice.
        """
        best, source = 0, None
        own = common_prefix(self.ids, wanted)
        if own >= self.lowest_end:
            best = own
        for snapshot in self._snapshots:
            shared = common_prefix(snapshot.ids, wanted)
            if shared >= snapshot.lowest_end and shared > best:
                best, source = shared, snapshot
        return best, source

    def go_back(self, tokens: int, snapshot: Snapshot | None = None) -> None:
        """End after so many tokens of the sequence, or of a snapshot."""
        if snapshot is not None:
            self._snapshots.add(snapshot)
        if tokens == 0:
            self.forget()
            return
        for index, rows in enumerate(self.binding.rows):
            if snapshot is None:
                rows.shorten(self.tokens, until=tokens)
            else:
                start = snapshot.starts[index]
                rows.write(snapshot.rows[index][:, : tokens - start], start, tokens=tokens)
        if snapshot is not None:
            self._ids[:tokens] = snapshot.ids[:tokens]
        self.tokens = tokens

    def held(self) -> list[tuple[CacheRows, CacheRows]]:
        """Copies of each layer's rows of the cache: key and value, (G, L, D) each."""
        copies = [
            rows.array[0, :, : rows.layout.held(self.tokens)].copy() for rows in self.binding.rows
        ]
        return list(zip(copies[::2], copies[1::2], strict=True))

    def release(self) -> None:
        """Free all arrays and the graph."""
        self.graph = None
        self.binding.release()
