"""The part of a session that goes back: snapshots, rewinds, and the file of a saved sequence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ContractError
from ..log import logger
from ..sizes import counted
from .saved_state import write_state
from .snapshot import Snapshot

if TYPE_CHECKING:
    from .guarded_sequence import GuardedSequence


class RewindableSession:
    """What copies a sequence, takes back its last tokens and writes it to a file."""

    _guarded: GuardedSequence

    @property
    def rewindable(self) -> int:
        """How many tokens ``rewind`` can take back; all of them can be taken back always."""
        sequence = self._guarded.cached
        return sequence.tokens - min(sequence.lowest_end, sequence.lowest_end_by_snapshot)

    def snapshot(self) -> Snapshot:
        """Copy the tokens and the rows of the cache that the next tokens need.

        Raises:
            ContractError: the copy would take more memory than allowed; another thread is inside a
                call, or an earlier call did not end.

        >>> from tramontane.runtime import Model
        >>> session = Model.load("ARTIFACT").session()
        >>> _ = session.prefill([1, 300, 301])
        >>> saved = session.snapshot()
        >>> first = session.prefill([302, 303])
        >>> session.restore(saved)
        >>> session.tokens, (session.prefill([302, 303]) == first).all()
        (3, np.True_)
        """
        with self._guarded.guard:
            sequence, model = self._guarded.cached, self._guarded.model
            size_bytes = sequence.snapshot_bytes()
            self._guarded.refuse_memory(tokens=sequence.tokens, more_bytes=size_bytes)
            snapshot = sequence.snapshot(model.manifest.sha256)
        model.memory_limit.note(snapshot, size_bytes=snapshot.size_bytes)
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Make the sequence what it was when a session of this artifact made the snapshot.

        Raises:
            ContractError: the snapshot is another artifact's, or as ``snapshot``.
        """
        with self._guarded.guard:
            model = self._guarded.model
            if snapshot.artifact != model.manifest.sha256:
                raise ContractError(
                    f"{model.folder}: the snapshot is of the artifact whose manifest has sha256 "
                    f"{snapshot.artifact}, expected {model.manifest.sha256}; restore it in a "
                    "session of the artifact that it was made with"
                )
            self._guarded.go_back(snapshot.tokens, snapshot)

    def save(self, path: Path | str) -> None:
        """Write the sequence to a file, from which ``load_state`` continues it bit for bit.

        Raises:
            ContractError: the file cannot be written; another thread is inside a call, or an
                earlier call did not end.
        """
        with self._guarded.guard:
            self._guarded.reserve(1)  # so that each layer has rows, if only none
            sequence = self._guarded.cached
            write_state(
                Path(path),
                artifact=self._guarded.model.manifest.sha256,
                cache_dtype=self._guarded.model.geometry.cache_dtype,
                ids=sequence.ids,
                starts=sequence.starts,
                rows=sequence.known_rows(),
            )

    def rewind(self, count: int) -> None:
        """Take back the last tokens of the sequence, exactly.

        Where the rows that the cache holds do not suffice, the sequence goes back to the nearest
        snapshot before (any that ``snapshot`` returned and that still exists) and computes the
        tokens after it again. ``rewindable`` is the most that can be taken back; ``keep`` of
        ``Model.session`` raises it.

        To have the logits of a token again, take it back too and append it by ``step``.

        Args:
            count: tokens to take back.

        Raises:
            ContractError: neither rows nor snapshots reach back so far; a negative number, or more
                than there are; another thread is inside a call, or an earlier call did not end.
        """
        with self._guarded.guard:
            sequence = self._guarded.cached
            if not 0 <= count <= sequence.tokens:
                raise ContractError(
                    f"{self._guarded.model.folder}: rewind({count}), expected 0 to "
                    f"{sequence.tokens}, the tokens of the sequence"
                )
            wanted = sequence.ids[: sequence.tokens - count].copy()
            reached, snapshot = sequence.reachable(wanted)
            if 0 < len(wanted) < sequence.tokens - self.rewindable:
                raise self._too_far_back(count)
            self._guarded.go_back(reached, snapshot)
            logger.debug("rewind: %d held, %d computed again", reached, len(wanted) - reached)
            if reached < len(wanted):
                self._guarded.prefill([int(token) for token in wanted[reached:]])

    def _too_far_back(self, count: int) -> ContractError:
        sequence = self._guarded.cached
        snapshots = sequence.lowest_end_by_snapshot
        reached = (
            f"its snapshots to {snapshots}"
            if snapshots < sequence.tokens
            else "it has no snapshot"
        )
        return ContractError(
            f"{self._guarded.model.folder}: rewind({count}) would end the sequence after "
            f"{counted(sequence.tokens - count, 'token')}, but the rows held reach back to "
            f"{sequence.lowest_end} and {reached}; take back at most {self.rewindable}, make the "
            f"session with keep={count} or more, take a snapshot() to return to, or reset()"
        )
