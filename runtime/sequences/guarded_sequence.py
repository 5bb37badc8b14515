"""The sequence of a session: appends tokens and goes back, under a guard and within limits."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import ContractError
from ..log import logger
from ..memory import DEFAULT_CHUNK
from ..speculation.draft_account import DraftAccount
from ..speculation.run_times import RunTimes
from ..speculation.speculation import Speculation
from ..untrusted.fields import whole_number
from .guard import Guard
from .sequence import CachedSequence
from .snapshot import Snapshot
from .time_limit import limited
from .token_ids import as_id, checked_ids, refuse_tokens

if TYPE_CHECKING:
    from ..loading.loaded_model import LoadedModel

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class GuardedSequence:
    """A cached sequence with its guard, in the limits of its model: positions and memory.

    All methods but ``close`` and ``reset`` are called inside ``guard``.
    """

    def __init__(self, model: LoadedModel, *, keep: int, time_limit: float | None) -> None:
        """Begin an empty sequence; arguments and what it raises are as ``Model.session``'s."""
        geometry = model.geometry
        expected = f"0 to {geometry.max_positions}, the positions of the artifact"
        if whole_number(keep, what="keep", expected=expected) > geometry.max_positions:
            raise ContractError(f"keep is {keep}; expected {expected}")
        self._kept_bytes = keep * geometry.layer_row_bytes * sum(map(bool, geometry.rows))
        self.model = model
        self._geometry = geometry
        self.refuse_memory(tokens=1)
        graph = limited(model.graph, seconds=time_limit, artifact=model.folder)
        self.cached = CachedSequence(graph, geometry, artifact=model.folder, keep=keep)
        self.guard = Guard(
            f"{model.folder}: this session",
            remedy="call reset() and give the whole sequence again",
        )
        self._run_times, self._draft_account = RunTimes(), DraftAccount()
        self._step_ids = np.zeros((1, 1), np.int64)
        self._step_logits = np.zeros((1, 1, geometry.vocab_size), np.float32)
        self._next_logits: Floats = self._step_logits[0, 0]
        self._next_logits.flags.writeable = False
        model.add_sequence(self)
        if geometry.is_bounded:
            self._allocate(geometry.max_positions)

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self.cached.tokens

    def close(self) -> None:
        """Free the KV cache; a second time it does nothing. Every other call then raises.

        Raises:
            ContractError: another thread is inside a call.
        """
        self.guard.close()
        try:
            self.cached.release()
            self.model.memory_limit.note(self, size_bytes=0)
        finally:
            self.guard.leave()

    def reset(self) -> None:
        """Begin an empty sequence, also after a call that did not end.

        Raises:
            ContractError: another thread is inside a call.
        """
        self.guard.reopen()
        try:
            self.guard.begin()
            self.cached.forget()
            self.guard.is_whole = True
        finally:
            self.guard.leave()

    def reuse(self, tokens: Sequence[int]) -> list[int]:
        """Go back to the longest prefix of the tokens that is held; the rest, at least one."""
        wanted = checked_ids(tokens, self._geometry, after=0)[0]
        reached, snapshot = self.cached.reachable(wanted[:-1])
        self.go_back(reached, snapshot)
        logger.debug("reuse: %d tokens held, %d to compute", reached, len(wanted) - reached)
        return [int(token) for token in wanted[reached:]]

    def go_back(self, tokens: int, snapshot: Snapshot | None) -> None:
        """End after so many tokens of the sequence, or of a snapshot."""
        self.reserve(tokens)
        self.guard.begin()
        self.cached.go_back(tokens, snapshot)
        self.guard.is_whole = True

    def prefill(
        self, tokens: Sequence[int], *, all_logits: bool = False, chunk: int | None = None
    ) -> Floats:
        """Append tokens, as ``Session.prefill``."""
        chunk = DEFAULT_CHUNK if chunk is None else chunk
        if chunk < 1:
            raise ContractError(f"chunk is {chunk}; expected 1 or more")
        if (longest := self.cached.longest_run) is not None:
            chunk = min(chunk, longest)
        ids = checked_ids(tokens, self._geometry, after=self.tokens)
        T, V = ids.shape[1], self._geometry.vocab_size
        self.reserve(self.tokens + T)
        logits = np.empty((1, T if all_logits else 1, V), np.float32)
        changes = self.guard.begin()
        for start in range(0, T, chunk):
            stop = min(start + chunk, T)
            out = logits[:, start:stop] if all_logits else logits
            self._run(ids[:, start:stop], out, keep=0 if all_logits else 1, changes=changes)
        self.guard.is_whole = True
        return np.asarray(logits[0] if all_logits else logits[0, 0])

    def step(self, token: int) -> Floats:
        """Append one token, as ``Session.step``."""
        token = as_id(token)
        refuse_tokens(token, token, self._geometry, count=1, after=self.tokens)
        self.reserve(self.tokens + 1)
        self._step_ids[0, 0] = token
        changes = self.guard.begin()
        self._run(self._step_ids, self._step_logits, keep=1, changes=changes)
        self.guard.is_whole = True
        return self._next_logits

    def speculation(self) -> Speculation:
        """Drafts of one generation, which know the times of runs before and what they may lose."""
        return Speculation(self._run_times, self._draft_account)

    def step_ahead(self, token: int, speculation: Speculation, *, most: int) -> Floats:
        """``step``, which computes the logits after likely next tokens in the same run.

        A run that would evict rows has no drafts: rows that it evicted could not come back.

        Args:
            token: to append.
            speculation: of the generation.
            most: likely next tokens that are of use, at most.
        """
        if not speculation.is_searching:
            speculation.note_token()
            return self.step(token)
        start, sequence = perf_counter(), self.cached
        found = speculation.ahead(token, changes=self.guard.changes)
        speculation.append(token, after=sequence.ids)
        if found is not None:
            self.guard.begin()
            sequence.append(token, count=1)
            self.guard.is_whole = True
            speculation.note_search(perf_counter() - start)
            return found
        drafts = []
        if speculation.is_ready:
            drafts = speculation.drafts(most=min(most, sequence.room - 1))
        if not drafts:
            searched = perf_counter()
            logits = self.step(token)
            speculation.note_plain(perf_counter() - searched, search_seconds=searched - start)
            return logits
        run = np.array([[token, *drafts]], np.int64)
        refuse_tokens(token, token, self._geometry, count=1, after=self.tokens)
        computed = speculation.buffer(drafts=len(drafts), V=self._geometry.vocab_size)
        changes = self.guard.begin()
        sequence.compute(run, computed, keep=0)
        self._refuse_reset(changes)
        sequence.append(token, count=1)
        self.guard.is_whole = True
        seconds = perf_counter() - start
        speculation.begin(drafts, computed[0], seconds=seconds, changes=changes)
        return np.asarray(computed[0, 0])

    def skip(self, count: int) -> None:
        """Append tokens that are not computed, as ``Session.seek``."""
        refuse_tokens(0, 0, self._geometry, count=count, after=self.tokens)
        self.reserve(self.tokens + count)
        self.guard.begin()
        self.cached.skip(count)
        self.guard.is_whole = True

    def _run(self, ids: Integers, logits: Floats, *, keep: int, changes: int) -> None:
        """Append ids (1, T) and fill logits (1, n, V); both, when slices, are contiguous."""
        self.cached.compute(ids, logits, keep=keep)
        self._refuse_reset(changes)
        self.cached.append(ids, count=ids.shape[1])

    def _refuse_reset(self, changes: int) -> None:
        """Refuse to go on after a reset by a handler of signals."""
        if self.guard.changes != changes:
            raise ContractError(f"{self.model.folder}: the session was reset inside this call")

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens in a growing cache."""
        if tokens > self.cached.binding.capacity:
            self.refuse_memory(tokens=tokens)
            self._allocate(tokens)

    def refuse_memory(self, *, tokens: int, more_bytes: int = 0) -> None:
        """Refuse so many tokens, and bytes besides, beyond the limit on memory."""
        more_bytes += self._kept_bytes
        self.model.memory_limit.refuse(self, tokens=tokens, more_bytes=more_bytes)

    def _allocate(self, tokens: int) -> None:
        """Allocate cache rows for so many tokens; held rows keep their values."""
        binding = self.cached.binding
        binding.reserve(tokens, held=self.tokens)
        size_bytes = sum(rows.size_bytes for rows in binding.rows)
        self.model.memory_limit.note(self, size_bytes=size_bytes)
