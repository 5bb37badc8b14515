"""A session: one sequence of tokens, with its KV cache, over a model that others may share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from .decoding.generating_session import GeneratingSession
from .decoding.speculation import Speculation
from .errors import ContractError
from .guard import Guard
from .held_rows import CacheRows
from .log import logger
from .manifest import Manifest
from .memory import DEFAULT_CHUNK
from .model import Model
from .saved_state import read_state, write_state
from .sequence import CachedSequence
from .sizes import counted
from .snapshot import Snapshot
from .time_limit import LimitedGraph
from .token_ids import as_id
from .tokenizers.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Session(GeneratingSession):
    """One sequence of tokens and its KV cache; sessions of one model share its weights.

    A step copies no rows of the cache but those that an eviction moves.

    ``model.session()`` makes one; ``with`` closes it. ``tokens`` counts the sequence:

    >>> from tramontane.runtime import Model
    >>> session = Model.load("ARTIFACT").session()
    >>> logits = session.prefill([1, 300, 301])
    >>> logits = session.step(int(logits.argmax()))
    >>> session.tokens
    4

    One thread at a time may use a session: a call while another thread is inside one raises
    ContractError at once. Threads that use sessions of their own may share the model. After an
    error or an interrupt while tokens were being appended, every call raises it until ``reset``.
    So does a second ``generate`` before the first has ended: read to its end, closed, no longer
    referenced, or the sequence was changed by other calls.
    """

    def __init__(self, model: Model, *, keep: int = 0, time_limit: float | None = None) -> None:
        """Begin an empty sequence; arguments and what it raises are as ``Model.session``'s."""
        geometry = model.manifest.geometry
        if not 0 <= keep <= geometry.max_positions:
            raise ContractError(
                f"keep is {keep}; expected 0 to {geometry.max_positions}, the positions of the "
                "artifact"
            )
        self._kept_bytes = keep * geometry.layer_row_bytes * sum(map(bool, geometry.rows))
        model.refuse_memory(self, tokens=1, more_bytes=self._kept_bytes)
        self.model = model
        self._owns_model = False
        self._geometry = geometry
        graph: Any = model.graph
        if time_limit is not None:
            graph = LimitedGraph(graph, seconds=time_limit, artifact=model.folder)
        self._sequence = CachedSequence(graph, geometry, artifact=model.folder, keep=keep)
        self._guard = Guard(
            f"{model.folder}: this session",
            remedy="call reset() and give the whole sequence again",
        )
        self._step_ids = np.zeros((1, 1), np.int64)
        self._step_logits = np.zeros((1, 1, self._geometry.vocab_size), np.float32)
        self._next_logits: Floats = self._step_logits[0, 0]
        self._next_logits.flags.writeable = False
        model.add_session(self)
        if self._geometry.is_bounded:
            self._allocate(self._geometry.max_positions)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        threads: int | None = None,
        verify: bool = False,
        max_memory: int | str | None = None,
        keep: int = 0,
        native: bool | None = None,
    ) -> Session:
        """Open an artifact for one sequence, as ``Model.load(folder).session()`` does.

        Closing the session then closes the model.

        Args:
            folder: written by export.
            threads: for one operator; None for as many as there are physical cores.
            verify: first compare every file's hash with the manifest's.
            max_memory: resident memory that the process may take, as the manifest plans it: bytes,
                or text such as ``"6GiB"``; None for as much as it needs.
            keep: as ``Model.session``.

        Raises:
            ContractError, ConfigError: as ``Model.load``.
        """
        model = Model.load(
            folder, threads=threads, verify=verify, max_memory=max_memory, native=native
        )
        session = cls(model, keep=keep)
        session._owns_model = True
        return session

    @property
    def folder(self) -> Path:
        """The artifact's folder."""
        return self.model.folder

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self.model.manifest

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, opened on first use."""
        return self.model.tokenizer

    @property
    def tokens(self) -> int:
        """Tokens of the sequence so far."""
        return self._sequence.tokens

    @property
    def rewindable(self) -> int:
        """How many tokens ``rewind`` can take back; all of them can be taken back always."""
        sequence = self._sequence
        return sequence.tokens - min(sequence.lowest_end, sequence.lowest_end_by_snapshot)

    def close(self) -> None:
        """Free the KV cache; a second time it does nothing. Every other call then raises.

        Raises:
            ContractError: another thread is inside a call.
        """
        self._guard.close()
        try:
            self._sequence.release()
            self.model.note_memory(self, size_bytes=0)
        finally:
            self._guard.leave()
        if self._owns_model:
            self._owns_model = False
            self.model.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Begin an empty sequence; rows of the old one are never read again.

        Generations that have not ended raise when they are asked for more.

        Raises:
            ContractError: another thread is inside a call.
        """
        self._guard.reopen()
        try:
            self._guard.begin()
            self._sequence.forget()
            self._guard.is_whole = True
        finally:
            self._guard.leave()

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
        with self._guard:
            size_bytes = self._sequence.snapshot_bytes()
            self.model.refuse_memory(
                self, tokens=self.tokens, more_bytes=self._kept_bytes + size_bytes
            )
            snapshot = self._sequence.snapshot(self.manifest.sha256)
        self.model.note_memory(snapshot, size_bytes=snapshot.size_bytes)
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Make the sequence what it was when a session of this artifact made the snapshot.

        Raises:
            ContractError: the snapshot is another artifact's, or as ``snapshot``.
        """
        with self._guard:
            if snapshot.artifact != self.manifest.sha256:
                raise ContractError(
                    f"{self.folder}: the snapshot is of the artifact whose manifest has sha256 "
                    f"{snapshot.artifact}, expected {self.manifest.sha256}; restore it in a "
                    "session of the artifact that it was made with"
                )
            self._go_back(snapshot.tokens, snapshot)

    def save(self, path: Path | str) -> None:
        """Write the sequence to a file, from which ``load_state`` continues it bit for bit.

        Raises:
            ContractError: the file cannot be written; another thread is inside a call, or an
                earlier call did not end.
        """
        with self._guard:
            self._reserve(1)  # so that each layer has rows, if only none
            sequence = self._sequence
            write_state(
                Path(path),
                artifact=self.manifest.sha256,
                ids=sequence.ids,
                starts=sequence.starts,
                rows=sequence.known_rows(),
            )

    @classmethod
    def load_state(cls, path: Path | str, model: Model, *, keep: int = 0) -> Session:
        """A new session that continues the one that ``save`` wrote, also in another process.

        Args:
            path: of the file.
            model: of the artifact that the session was saved with.
            keep: as ``Model.session``.

        Raises:
            ContractError: not such a file, damaged, or of another artifact or version; or as
                ``Model.session``.
        """
        session = cls(model, keep=keep)
        try:
            session.restore(read_state(Path(path), model.manifest))
        except BaseException:
            session.close()
            raise
        return session

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
        with self._guard:
            sequence = self._sequence
            if not 0 <= count <= sequence.tokens:
                raise ContractError(
                    f"{self.folder}: rewind({count}), expected 0 to {sequence.tokens}, the tokens "
                    "of the sequence"
                )
            wanted = sequence.ids[: sequence.tokens - count].copy()
            reached, snapshot = sequence.reachable(wanted)
            if 0 < len(wanted) < sequence.tokens - self.rewindable:
                raise self._too_far_back(count)
            self._go_back(reached, snapshot)
            logger.debug("rewind: %d held, %d computed again", reached, len(wanted) - reached)
            if reached < len(wanted):
                self._prefill([int(token) for token in wanted[reached:]])

    def _too_far_back(self, count: int) -> ContractError:
        sequence = self._sequence
        snapshots = sequence.lowest_end_by_snapshot
        reached = (
            f"its snapshots to {snapshots}"
            if snapshots < sequence.tokens
            else "it has no snapshot"
        )
        return ContractError(
            f"{self.folder}: rewind({count}) would end the sequence after "
            f"{counted(sequence.tokens - count, 'token')}, but the rows held reach back to "
            f"{sequence.lowest_end} and {reached}; take back at most {self.rewindable}, make the "
            f"session with keep={count} or more, take a snapshot() to return to, or reset()"
        )

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        all_logits: bool = False,
        chunk: int | None = None,
        reuse: bool = False,
    ) -> Floats:
        """Append tokens to the sequence, or make them the sequence.

        Args:
            tokens: at least one; any number of turns may follow each other.
            all_logits: return those of every token computed, not of the last alone.
            chunk: tokens run at once; None for ``DEFAULT_CHUNK``. Changes rounding only.
            reuse: ``tokens`` are the whole sequence, which replaces the one so far. The longest
                prefix that the cache or a snapshot of this session holds is not computed again.

        Returns:
            (V,) float32, or (T, V) with ``all_logits``.

        Raises:
            ContractError: no tokens, one outside the vocabulary, or more than the sequence holds;
                another thread is inside a call, or an earlier call did not end.
        """
        with self._guard:
            if reuse:
                tokens = self._reuse(tokens)
            return self._prefill(tokens, all_logits=all_logits, chunk=chunk)

    def step(self, token: int) -> Floats:
        """Append one token; return the logits of the next.

        Returns:
            (V,) float32, read in place: the next step overwrites them, so copy what is kept.

        Raises:
            ContractError: as ``prefill``.
        """
        with self._guard:
            return self._step(token)

    def seek(self, position: int) -> None:
        """Skip to a position of the sequence without computing the tokens before it.

        For measurements alone: a step takes as long as at that position of a computed sequence,
        and its logits mean nothing. Cache rows of the skipped tokens repeat the rows held before;
        if none were held, they stay as they are (zeros in a new session).

        Args:
            position: tokens of the sequence afterwards, at least as many as there are.

        Raises:
            ContractError: a position before the end of the sequence, or beyond what it may hold;
                also as ``prefill``.
        """
        with self._guard:
            skipped = position - self.tokens
            if skipped < 0:
                raise ContractError(
                    f"position is {position}, expected {self.tokens} or more, the tokens of the "
                    "sequence; call reset() first"
                )
            self.model.refuse_tokens(0, 0, count=skipped, after=self.tokens)
            self._reserve(position)
            self._guard.begin()
            self._sequence.skip(skipped)
            self._guard.is_whole = True

    def cache(self) -> list[tuple[CacheRows, CacheRows]]:
        """Copies of each layer's held rows: key and value, (G, L, D) each.

        They are float32, or int8 quantized values whose scales the graph holds.
        """
        with self._guard:
            return self._sequence.held()

    def _reuse(self, tokens: Sequence[int]) -> list[int]:
        """Go back to the longest prefix of the tokens that is held; the rest, at least one."""
        wanted = self.model.checked_ids(tokens, after=0)[0]
        reached, snapshot = self._sequence.reachable(wanted[:-1])
        self._go_back(reached, snapshot)
        logger.debug("reuse: %d tokens held, %d to compute", reached, len(wanted) - reached)
        return [int(token) for token in wanted[reached:]]

    def _go_back(self, tokens: int, snapshot: Snapshot | None) -> None:
        """End after so many tokens of the sequence, or of a snapshot."""
        self._reserve(tokens)
        self._guard.begin()
        self._sequence.go_back(tokens, snapshot)
        self._guard.is_whole = True

    def _prefill(
        self, tokens: Sequence[int], *, all_logits: bool = False, chunk: int | None = None
    ) -> Floats:
        """``prefill``, inside the guard."""
        chunk = DEFAULT_CHUNK if chunk is None else chunk
        if chunk < 1:
            raise ContractError(f"chunk is {chunk}; expected 1 or more")
        if (longest := self._sequence.longest_run) is not None:
            chunk = min(chunk, longest)
        ids = self.model.checked_ids(tokens, after=self.tokens)
        T, V = ids.shape[1], self._geometry.vocab_size
        self._reserve(self.tokens + T)
        logits = np.empty((1, T if all_logits else 1, V), np.float32)
        changes = self._guard.begin()
        for start in range(0, T, chunk):
            stop = min(start + chunk, T)
            out = logits[:, start:stop] if all_logits else logits
            self._run(ids[:, start:stop], out, keep=0 if all_logits else 1, changes=changes)
        self._guard.is_whole = True
        return np.asarray(logits[0] if all_logits else logits[0, 0])

    def _step(self, token: int) -> Floats:
        """``step``, inside the guard."""
        token = as_id(token)
        self.model.refuse_tokens(token, token, count=1, after=self.tokens)
        self._reserve(self.tokens + 1)
        self._step_ids[0, 0] = token
        changes = self._guard.begin()
        self._run(self._step_ids, self._step_logits, keep=1, changes=changes)
        self._guard.is_whole = True
        return self._next_logits

    def _step_ahead(self, token: int, speculation: Speculation) -> Floats:
        """``_step``, which computes the logits after likely next tokens in the same run.

        A run that would evict rows has no drafts: rows that it evicted could not come back.
        """
        sequence, changes = self._sequence, self._guard.changes
        if (found := speculation.ahead(token, changes=changes)) is not None:
            self._guard.begin()
            sequence.append(token, count=1)
            self._guard.is_whole = True
            return found
        speculation.settle()
        self.model.refuse_tokens(token, token, count=1, after=self.tokens)
        start = perf_counter()
        ids = np.append(sequence.ids, token)
        drafts = speculation.drafts(ids, most=sequence.room - 1) if sequence.room > 1 else []
        if not drafts:
            logits = self._step(token)
            speculation.note_plain(perf_counter() - start)
            return logits
        run = np.array([[token, *drafts]], np.int64)
        computed = np.empty((1, run.shape[1], self._geometry.vocab_size), np.float32)
        changes = self._guard.begin()
        sequence.compute(run, computed, keep=0)
        self._refuse_reset(changes)
        sequence.append(token, count=1)
        self._guard.is_whole = True
        seconds = perf_counter() - start
        speculation.begin(drafts, computed[0], seconds=seconds, changes=changes)
        return np.asarray(computed[0, 0])

    def _run(self, ids: Integers, logits: Floats, *, keep: int, changes: int) -> None:
        """Append ids (1, T) and fill logits (1, n, V); both, when slices, are contiguous."""
        self._sequence.compute(ids, logits, keep=keep)
        self._refuse_reset(changes)
        self._sequence.append(ids, count=ids.shape[1])

    def _refuse_reset(self, changes: int) -> None:
        """Refuse to go on after a reset by a handler of signals."""
        if self._guard.changes != changes:
            raise ContractError(f"{self.folder}: the session was reset inside this call")

    def _reserve(self, tokens: int) -> None:
        """Make room for so many tokens in a growing cache."""
        if tokens > self._sequence.binding.capacity:
            self._refuse_memory(tokens=tokens)
            self._allocate(tokens)

    def _refuse_memory(self, *, tokens: int) -> None:
        """Refuse so many tokens if they would take more memory than allowed."""
        self.model.refuse_memory(self, tokens=tokens, more_bytes=self._kept_bytes)

    def _allocate(self, tokens: int) -> None:
        """Allocate cache rows for so many tokens; held rows keep their values."""
        binding = self._sequence.binding
        binding.reserve(tokens, held=self.tokens)
        size_bytes = sum(rows.size_bytes for rows in binding.rows)
        self.model.note_memory(self, size_bytes=size_bytes)
