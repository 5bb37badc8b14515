"""Iterators over what a session generates: tokens, or their text.

Both may be closed early by ``close()``. Where the session's sequence was changed by another call
since an iterator's last token, it raises instead of continuing a sequence that is not its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .errors import ContractError
from .guard import Guard
from .tokenizers.detokenizer import Detokenizer

DEFAULT_NEW_TOKENS = 128

Floats = npt.NDArray[np.float32]


class Sequencer(Protocol):
    """What a generation needs of a session; both methods are called inside its guard."""

    @property
    def folder(self) -> Path:
        """The artifact's folder."""

    def _prefill(self, tokens: Sequence[int]) -> Floats:
        """Append tokens; logits (V,) of the next."""

    def _step(self, token: int) -> Floats:
        """Append one token; logits (V,) of the next."""


class Generation(Iterator[int]):
    """Tokens after a prompt, each chosen when it is asked for and appended when the next is.

    The prompt is appended when the first token is asked for. End tokens are neither yielded nor
    appended.
    """

    def __init__(
        self,
        session: Sequencer,
        guard: Guard,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        eos_token_ids: Sequence[int],
        choose: Callable[[Floats], int],
        changes: int,
    ) -> None:
        """Begin after the sequence as it was at that number of the guard's changes."""
        self._session = session
        self._guard = guard
        self._prompt = prompt
        self._left = max_new_tokens
        self._eos_token_ids = eos_token_ids
        self._choose = choose
        self._last: int | None = None  # yielded and not yet appended
        self._since = changes
        self._is_over = False

    @property
    def is_live(self) -> bool:
        """Whether it could yield more."""
        return not self._is_over and self._since == self._guard.changes

    def __next__(self) -> int:
        """The next token.

        Raises:
            ContractError: another call changed the session's sequence, is inside, or failed.
        """
        if self._is_over:
            raise StopIteration
        with self._guard:
            self._refuse_changed()
            token = self._chosen()
            if token is None:
                self._is_over = True
                raise StopIteration
            self._last, changes = token, self._guard.changes
        # Last of all: where an interrupt keeps the token from the caller, the numbers differ.
        self._since = changes
        return token

    def close(self) -> None:
        """End it; the session's next generation may begin."""
        self._is_over = True

    def _chosen(self) -> int | None:
        """Append what is due and choose a token; None at the end."""
        if self._last is None:
            logits = self._session._prefill(self._prompt)
        else:
            logits = self._session._step(self._last)
        if not self._left:
            return None
        self._left -= 1
        token = self._choose(logits)
        return None if token in self._eos_token_ids else token

    def _refuse_changed(self) -> None:
        if self._since != self._guard.changes:
            raise ContractError(
                f"{self._session.folder}: the session was reset or given other tokens after this "
                "generate() or stream() began; start a new one"
            )


class TextStream(Iterator[str]):
    """Text of a generation, whole characters at a time; no piece is empty."""

    def __init__(self, tokens: Generation, detokenizer: Detokenizer) -> None:
        """Begin before the first token."""
        self._tokens = tokens
        self._detokenizer = detokenizer
        self._guard = Guard("this stream", remedy="start a new one")

    def __next__(self) -> str:
        """The next piece of text.

        Raises:
            ContractError: as ``Generation``.
        """
        with self._guard:
            text = self._text()
        # Last of all: text that an interrupt keeps from the caller is not skipped in silence.
        self._guard.is_whole = True
        if not text:
            raise StopIteration
        return text

    def close(self) -> None:
        """End it; the session's next generation may begin."""
        self._tokens.close()

    def _text(self) -> str:
        """Text of as many tokens as make some; empty at the end."""
        for token in self._tokens:
            self._guard.is_whole = False
            if text := self._detokenizer.push(token):
                return text
        self._guard.is_whole = False
        return self._detokenizer.flush()
