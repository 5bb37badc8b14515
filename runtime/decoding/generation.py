"""An iterator over the text that a session generates, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ContractError
from ..guard import Guard
from ..memory import DEFAULT_CHUNK
from ..tokenizers.detokenizer import Detokenizer
from .logprobs import TokenLogprobs, logprobs_of
from .result import FinishReason, Result
from .speculation import Speculation
from .stop_strings import StopStrings

DEFAULT_NEW_TOKENS = 128

Floats = npt.NDArray[np.float32]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a generation is asked for."""

    artifact: Path  # for messages
    prompt: Sequence[int]
    reuse: bool  # whether the prompt replaces the sequence so far
    speculation: Speculation | None
    max_new_tokens: int
    eos_token_ids: Sequence[int]
    choose: Callable[[Floats], int]
    top_logprobs: int | None  # likeliest tokens beside each chosen one; None: no log-probabilities
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
        *,
        detokenizer: Detokenizer,
        stops: StopStrings,
        changes: int,
    ) -> None:
        """Begin after the sequence as it was at that number of the guard's changes."""
        self._session = session
        self._guard = guard
        self._request = request
        self._detokenizer = detokenizer
        self._stops = stops
        self._since = changes
        self._is_cancelled = False
        self._finish_reason: FinishReason | None = None
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._is_pending = False  # whether the last of the tokens is still to be appended
        self._prompt_tokens = 0
        self._prefill_seconds = self._decode_seconds = 0.0

    @property
    def tokens(self) -> list[int]:
        """Tokens chosen so far."""
        return [*self._tokens]

    @property
    def is_live(self) -> bool:
        """Whether it could give more."""
        return self._finish_reason is None and self._since == self._guard.changes

    @property
    def result(self) -> Result:
        """What was made.

        Raises:
            ContractError: it has not ended, or failed.
        """
        if self._since == _UNKNOWN or self._finish_reason is None:
            self._refuse_changed()
            raise ContractError(
                f"{self._request.artifact}: this generate() has not ended; read it to its end, "
                "call finish(), or close() it before you ask for its result"
            )
        return Result(
            text="".join(self._text),
            tokens=self.tokens,
            finish_reason=self._finish_reason,
            stop_string=self._stops.found,
            logprobs=[*self._logprobs],
            prompt_tokens=self._prompt_tokens,
            prefill_seconds=self._prefill_seconds,
            decode_seconds=self._decode_seconds,
        )

    def __next__(self) -> str:
        """The next piece of text.

        Raises:
            ContractError: another call changed the session's sequence, is inside, or failed.
        """
        if self._finish_reason is not None and self._since != _UNKNOWN:
            raise StopIteration
        with self._guard:
            self._refuse_changed()
            self._since = _UNKNOWN
            piece = self._piece()
            changes = self._guard.changes
        # Last of all: where an interrupt keeps a piece from the caller, no other follows it.
        self._since = changes
        if not piece:
            raise StopIteration
        return piece

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
        if self._finish_reason is None:
            self._finish_reason = "cancelled"

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _piece(self) -> str:
        """Text of as many tokens as make some; empty at the end."""
        text = ""
        while not text and self._finish_reason is None:
            token, reason = self._chosen()
            text = self._stops.push(
                self._detokenizer.flush() if token is None else self._detokenizer.push(token)
            )
            if self._stops.found is not None:
                reason = "stop_string"
                del self._logprobs[len(self._tokens) :]
            elif token is not None:
                self._tokens.append(token)
                self._is_pending = True
            else:
                text += self._stops.flush()
            self._finish_reason = self._finish_reason or reason  # close() of another thread stays
        self._text.append(text)
        return text

    def _chosen(self) -> tuple[int | None, FinishReason | None]:
        """Append what is due and choose a token, or none and the reason."""
        logits = self._step() if self._is_pending else self._prefill()
        start, asked = perf_counter(), self._request
        token: int | None = None
        reason: FinishReason | None = None
        if logits is None or self._asked_to_end():
            reason = "cancelled"
        elif len(self._tokens) == asked.max_new_tokens:
            reason = "length"
        else:
            token = asked.choose(logits)
            if token in asked.eos_token_ids:
                token, reason = None, "end_token"
            elif asked.top_logprobs is not None:
                self._logprobs.append(logprobs_of(logits, token, top=asked.top_logprobs))
        self._decode_seconds += perf_counter() - start
        return token, reason

    def _step(self) -> Floats:
        """Append the last token."""
        start = perf_counter()
        token, speculation = self._tokens[-1], self._request.speculation
        if speculation is None:
            logits = self._session.step(token)
        else:
            left = self._request.max_new_tokens - len(self._tokens)
            logits = self._session.step_ahead(token, speculation, most=left)
        self._is_pending = False
        self._decode_seconds += perf_counter() - start
        return logits

    def _prefill(self) -> Floats | None:
        """Append the prompt, chunk by chunk; None where it was cancelled before its end."""
        start, prompt = perf_counter(), self._request.prompt
        logits = None
        if self._request.reuse and not self._asked_to_end():
            prompt = self._session.reuse(prompt)
        for first in range(0, len(prompt), DEFAULT_CHUNK):
            if self._asked_to_end():
                return None
            part = prompt[first : first + DEFAULT_CHUNK]
            logits = self._session.prefill(part)
            self._prompt_tokens += len(part)
            if self._request.progress is not None:
                self._request.progress(self._prompt_tokens, len(prompt))
        self._prefill_seconds = perf_counter() - start
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
