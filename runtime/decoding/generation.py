"""An iterator over the text that a session generates, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Protocol

from ..errors import ContractError
from ..memory import DEFAULT_CHUNK
from ..sequences.guard import Guard
from ..speculation.speculation import Speculation
from .continuation import Continuation, Floats
from .result import Result

_UNKNOWN = -1  # instead of a number of changes, while a piece is made


class Sequencer(Protocol):
    """What a generation needs of a session; all methods are called inside its guard."""

    def reuse(self, tokens: Sequence[int]) -> list[int]:
        """Go back to the longest prefix of the tokens that is held; the rest, at least one."""

    def prefill(self, tokens: Sequence[int]) -> Floats:
        """Append tokens; logits (V,) of the next."""

    def step(self, token: int) -> Floats:
        """Append one token; logits (V,) of the next."""

    def step_ahead(self, token: int, speculation: Speculation, *, most: int) -> Floats:
        """``step``, which may compute the logits after likely next tokens in the same run."""


class Reader(Protocol):
    """A task of asyncio that asks for pieces."""

    def cancelled(self) -> bool:
        """Whether it was cancelled, and asks for no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a generation is asked for."""

    artifact: Path  # for messages
    read_prompt: Callable[[], Sequence[int]]  # raises what is refused of it
    reuse: bool  # whether the prompt replaces the sequence so far
    speculation: Speculation | None
    cancel: Event
    progress: Callable[[int, int], object] | None


class Generation(Iterator[str]):
    """Text after a prompt, in pieces of whole characters; no piece is empty.

    The prompt is appended when the first piece is asked for, and each token when the one after it
    is, the last one included. ``result`` is there at the end; ``finish`` goes there at once. Where
    the session's sequence was changed by another call since the last piece, the next one raises
    instead of continuing a sequence that is not its own. ``with`` closes it.
    """

    def __init__(
        self,
        session: Sequencer,
        guard: Guard,
        request: Request,
        continuation: Continuation,
        *,
        changes: int,
    ) -> None:
        """Begin after the sequence as it was at that number of the guard's changes."""
        self.reader: Reader | None = None  # the last task of asyncio that asked for a piece
        self._session = session
        self._guard = guard
        self._request = request
        self._made = continuation
        self._prompt: Sequence[int] | None = None  # its tokens, once it is read
        self._since = changes
        self._is_cancelled = False
        self._is_pending = False  # whether the last of the tokens is still to be appended

    @property
    def tokens(self) -> list[int]:
        """Tokens chosen so far."""
        return [*self._made.tokens]

    @property
    def is_live(self) -> bool:
        """Whether it could give more."""
        return self._made.finish_reason is None and self._since == self._guard.changes

    @property
    def is_given_up(self) -> bool:
        """Whether it was cancelled, or the task that read it: another may begin in its place."""
        return self._asked_to_end() or (self.reader is not None and self.reader.cancelled())

    @property
    def result(self) -> Result:
        """What was made.

        Raises:
            ContractError: it has not ended, or failed.
        """
        if self._since == _UNKNOWN or self._made.finish_reason is None:
            self._refuse_changed()
            raise ContractError(
                f"{self._request.artifact}: this generate() has not ended; read it to its end, "
                "call finish(), or close() it before you ask for its result"
            )
        return self._made.result()

    def __next__(self) -> str:
        """The next piece of text.

        Raises:
            ContractError: another call changed the session's sequence, is inside, or failed.
        """
        if self._made.finish_reason is not None and self._since != _UNKNOWN:
            raise StopIteration
        with self._guard:
            self._refuse_changed()
            self._since = _UNKNOWN
            piece = ""
            while not piece and self._made.finish_reason is None:
                piece = self._taken()
            changes = self._guard.changes
        # Last of all: where an interrupt keeps a piece from the caller, no other follows it.
        self._since = changes
        if not piece:
            raise StopIteration
        return piece

    def read_prompt(self) -> Sequence[int]:
        """Find the prompt's tokens and check them, if that was not done; called inside the guard.

        The first piece does it otherwise.

        Raises:
            ContractError: what ``Session.generate`` refuses of a prompt.
        """
        if self._prompt is None:
            self._prompt = self._request.read_prompt()
        return self._prompt

    def finish(self) -> Result:
        """Read what is left; returns the result of the whole.

        Raises:
            ContractError: as the iterator.
        """
        for _ in self:
            pass
        return self.result

    def cancel(self) -> None:
        """Let it end within one step, or one chunk of the prompt; any thread may call this."""
        self._is_cancelled = True

    def close(self) -> None:
        """End it now; the session's next generation may begin. The last token is not appended."""
        if self._made.finish_reason is None:
            self._made.finish_reason = "cancelled"

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _taken(self) -> str:
        """Append what is due and choose a token; the text that it completes."""
        made = self._made
        logits = self._step() if self._is_pending else self._prefill()
        if logits is None or self._asked_to_end():
            return made.end("cancelled")
        if made.is_full:
            return made.end("length")
        start, before = perf_counter(), len(made.tokens)
        text = made.take(logits)
        made.decode_seconds += perf_counter() - start
        self._is_pending = len(made.tokens) > before
        return text

    def _step(self) -> Floats:
        """Append the last token."""
        start, made = perf_counter(), self._made
        token, speculation = made.tokens[-1], self._request.speculation
        if speculation is None:
            logits = self._session.step(token)
        else:
            logits = self._session.step_ahead(token, speculation, most=made.left)
        self._is_pending = False
        made.decode_seconds += perf_counter() - start
        return logits

    def _prefill(self) -> Floats | None:
        """Append the prompt, chunk by chunk; None where it was cancelled before its end."""
        if self._asked_to_end():
            return None
        prompt, made = self.read_prompt(), self._made
        start, logits = perf_counter(), None
        if self._request.reuse and not self._asked_to_end():
            prompt = self._session.reuse(prompt)
        for first in range(0, len(prompt), DEFAULT_CHUNK):
            if self._asked_to_end():
                return None
            part = prompt[first : first + DEFAULT_CHUNK]
            logits = self._session.prefill(part)
            made.prompt_tokens += len(part)
            if self._request.progress is not None:
                self._request.progress(made.prompt_tokens, len(prompt))
        made.prefill_seconds = perf_counter() - start
        return logits

    def _asked_to_end(self) -> bool:
        return self._is_cancelled or self._request.cancel.is_set()

    def _refuse_changed(self) -> None:
        if self._since == _UNKNOWN:
            raise ContractError(
                f"{self._request.artifact}: this generate() was interrupted or failed before its "
                "next piece; start a new one"
            )
        if self._since != self._guard.changes:
            raise ContractError(
                f"{self._request.artifact}: the session was reset or given other tokens after "
                "this generate() began; start a new one"
            )
