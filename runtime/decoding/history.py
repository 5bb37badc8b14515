"""Tokens that a generation has read and made, for processors that look back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class History:
    """The tokens of a prompt and those chosen since.

    >>> history = History([5, 6])
    >>> history.append(7)
    >>> history.all_tokens.tolist(), history.new_tokens.tolist()
    ([5, 6, 7], [7])
    """

    def __init__(self, prompt: Sequence[int] = ()) -> None:
        """Begin after a prompt."""
        self._tokens = np.array(prompt, np.int64)
        self._prompt = self._count = len(self._tokens)

    def append(self, token: int) -> None:
        """Note a chosen token."""
        if self._count == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros(self._count + 64, np.int64)])
        self._tokens[self._count] = token
        self._count += 1

    @property
    def all_tokens(self) -> Integers:
        """(T,) int64: those of the prompt, then those chosen."""
        return self._tokens[: self._count]

    @property
    def new_tokens(self) -> Integers:
        """(T,) int64: those chosen."""
        return self._tokens[self._prompt : self._count]
