"""Text after several prompts, whose next tokens are computed together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import TYPE_CHECKING

from ..batch import Batch
from ..errors import ContractError
from ..memory import DEFAULT_CHUNK
from ..sequences.guard import Guard
from .continuation import Continuation, Floats
from .result import Result

if TYPE_CHECKING:
    from ..sequences.guarded_sequence import GuardedSequence
    from ..sequences.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """What a batch is asked for."""

    artifact: Path  # for messages
    prompts: Sequence[Sequence[int]]
    shared: int  # tokens that all prompts begin with, which are computed once
    cancel: Event
    progress: Callable[[int, int], object] | None


class BatchGeneration(Iterator[tuple[int, str]]):
    """Text after several prompts: pairs of a prompt's index and a piece of its text.

    Pieces of one prompt come in order and in whole characters; none is empty. Prompts are read one
    after the other, each when the first piece of the one before was given; then one run computes
    the next token of all that have not ended. ``results`` are there at the end; ``finish`` goes
    there at once. ``with`` closes it.
    """

    def __init__(
        self,
        sequence: GuardedSequence,
        batch: Batch,
        request: BatchRequest,
        continuations: Sequence[Continuation],
    ) -> None:
        """Begin with an empty sequence, which reads prompts, and an empty batch; both its own."""
        self._sequence = sequence
        self._batch = batch
        self._request = request
        self._made = [*continuations]
        self._guard = Guard(
            f"{request.artifact}: this generate_batch()", remedy="start a new generate_batch()"
        )
        self._is_unknown = False  # whether a call began that has not ended
        self._pieces: deque[tuple[int, str]] = deque()
        self._num_read = self._tokens_read = 0
        self._places: list[int] = []  # the prompt of each sequence of the batch
        self._cancelled: set[int] = set()
        self._snapshot: Snapshot | None = None  # after the tokens that all share

    @property
    def results(self) -> list[Result]:
        """What was made, in the order of the prompts.

        Raises:
            ContractError: not all have ended, or a call failed.
        """
        if self._is_unknown or not self._has_ended:
            found = "was interrupted or failed" if self._is_unknown else "has not ended"
            raise ContractError(
                f"{self._request.artifact}: this generate_batch() {found}, expected results of "
                "all prompts; read it to its end, call finish(), or close() it, or start a new one"
            )
        return [made.result() for made in self._made]

    def __next__(self) -> tuple[int, str]:
        """A prompt's index, and the next piece of its text.

        Raises:
            ContractError: another thread is inside, or a call failed.
        """
        if not (self._pieces or self._is_unknown) and self._has_ended:
            raise StopIteration
        with self._guard:
            self._guard.begin()
            self._is_unknown = True
            while not self._pieces and not self._has_ended:
                self._advance()
            piece = self._pieces.popleft() if self._pieces else None
            if self._has_ended:
                self._free()
            self._guard.is_whole = True
        # Last of all: where an interrupt keeps a piece from the caller, no other follows it.
        self._is_unknown = False
        if piece is None:
            raise StopIteration
        return piece

    def finish(self) -> list[Result]:
        """Read what is left; returns the results of the whole, in the order of the prompts.

        Raises:
            ContractError: as the iterator.
        """
        for _ in self:
            pass
        return self.results

    def cancel(self, index: int | None = None) -> None:
        """End one prompt's text, or all, within one step or one chunk; any thread may call this.

        Raises:
            ContractError: there is no such prompt.
        """
        indices = range(len(self._made))
        if index is not None and index not in indices:
            raise ContractError(
                f"{self._request.artifact}: cancel({index}); expected 0 to {len(indices) - 1}, "
                "the index of a prompt"
            )
        self._cancelled.update(indices if index is None else (index,))

    def close(self) -> None:
        """End it now and free its memory; a second time it does nothing.

        Raises:
            ContractError: another thread is inside.
        """
        if self._guard.is_closed:
            return
        self._guard.close()
        try:
            for made in self._made:
                made.finish_reason = made.finish_reason or "cancelled"
            self._pieces.clear()
            self._free()
        finally:
            self._guard.leave()

    def __enter__(self) -> BatchGeneration:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _has_ended(self) -> bool:
        return all(made.finish_reason is not None for made in self._made)

    def _advance(self) -> None:
        """Read a prompt or compute a step; note the pieces that it completes."""
        for index, made in enumerate(self._made):
            if made.finish_reason is None and self._asked_to_end(index):
                self._note(index, made.end("cancelled"))
        self._remove_ended()
        if self._num_read < len(self._made):
            index = self._num_read
            self._num_read += 1
            if self._made[index].finish_reason is None:
                self._read(index)
            if self._num_read == len(self._made):
                self._sequence.close()
        elif self._places:
            self._step()

    def _read(self, index: int) -> None:
        """Read a prompt and choose its first token."""
        start, made = perf_counter(), self._made[index]
        with self._sequence.guard:
            logits = self._prefilled(index)
        made.prefill_seconds = perf_counter() - start
        if logits is None or self._asked_to_end(index):
            self._note(index, made.end("cancelled"))
            return
        self._take(index, logits)
        if made.finish_reason is None:
            self._batch.add(self._sequence.cached)
            self._places.append(index)

    def _prefilled(self, index: int) -> Floats | None:
        """Logits after a prompt; None where it was cancelled before its end."""
        prompt, shared = self._request.prompts[index], self._request.shared
        self._sequence.go_back(shared if self._snapshot else 0, self._snapshot)
        if shared and self._snapshot is None:
            if self._appended(index, prompt[:shared]) is None:
                return None
            self._snapshot = self._sequence.cached.snapshot("")
        return self._appended(index, prompt[shared:])

    def _appended(self, index: int, tokens: Sequence[int]) -> Floats | None:
        """Logits after tokens, read chunk by chunk; None where it was cancelled."""
        logits = None
        for first in range(0, len(tokens), DEFAULT_CHUNK):
            if self._asked_to_end(index):
                return None
            part = tokens[first : first + DEFAULT_CHUNK]
            logits = self._sequence.prefill(part)
            self._made[index].prompt_tokens += len(part)
            self._tokens_read += len(part)
            if self._request.progress is not None:
                self._request.progress(self._tokens_read, self._tokens_to_read)
        return logits

    @property
    def _tokens_to_read(self) -> int:
        shared = self._request.shared
        return shared + sum(len(prompt) - shared for prompt in self._request.prompts)

    def _step(self) -> None:
        """Append each one's last token, and choose the next."""
        start, going = perf_counter(), [*self._places]
        logits = self._batch.step([self._made[index].tokens[-1] for index in going])
        for index, row in zip(going, logits, strict=True):
            self._take(index, row)
        seconds = perf_counter() - start
        for index in going:
            self._made[index].decode_seconds += seconds
        self._remove_ended()

    def _take(self, index: int, logits: Floats) -> None:
        """Choose a token, where more may follow."""
        made = self._made[index]
        if not made.is_full:
            self._note(index, made.take(logits))
        if made.finish_reason is None and made.is_full:
            self._note(index, made.end("length"))

    def _note(self, index: int, text: str) -> None:
        if text:
            self._pieces.append((index, text))

    def _remove_ended(self) -> None:
        """Remove sequences that have ended; the last one takes the place of each."""
        for place in reversed(range(len(self._places))):
            if self._made[self._places[place]].finish_reason is not None:
                self._batch.remove(place)
                self._places[place] = self._places[-1]
                self._places.pop()

    def _asked_to_end(self, index: int) -> bool:
        return index in self._cancelled or self._request.cancel.is_set()

    def _free(self) -> None:
        self._sequence.close()
        self._snapshot = None
        self._batch.release()
