"""Rows of the KV cache, and the positions that they hold.

With a window, the cache has a fixed number of rows, C: the latest tokens, contiguous from row 0,
oldest first. When a token does not fit, the oldest E = C - window + 1 rows are evicted at once, so
that ``window - 1`` past keys are always there for the next query and rows move rarely.

An example, window 4 and C = 6, hence E = 3 (row contents after T tokens):

    T = 6   0 1 2 3 4 5
    T = 7   3 4 5 6 . .
    T = 9   3 4 5 6 7 8
    T = 10  6 7 8 9 . .

>>> layout = CacheLayout(window=4, rows=6)
>>> [(layout.first(T), layout.held(T)) for T in (6, 7, 9, 10)]
[(0, 6), (3, 4), (3, 6), (6, 4)]

Without C nothing is evicted: the rows grow with the tokens, and a window only masks keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ContractError

_FIRST_ROWS = 256  # of a cache without a window, to begin with


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheLayout:
    """Which rows the cache holds; every implementation of the operator keeps this rule.

    Source: ``sliding_window_cache`` of ``com.microsoft.GroupQueryAttention``.
    """

    window: int | None  # keys a query sees, itself included; None: all before it
    rows: int | None  # C; None: as many as there are tokens

    def __post_init__(self) -> None:
        if self.rows is not None and self.window is None:
            raise ContractError(f"rows are {self.rows} without a window; expected none")
        if self.window is not None and self.rows is not None and self.rows < self.window:
            raise ContractError(
                f"{self.rows} rows cannot hold a window of {self.window}, expected as many or more"
            )

    def first(self, tokens: int) -> int:
        """Oldest position held after ``tokens`` tokens."""
        if self.window is None or self.rows is None or tokens <= self.rows:
            return 0
        evicted_at_once = self.rows - self.window + 1
        evictions = -((self.rows - tokens) // evicted_at_once)
        return evictions * evicted_at_once

    def held(self, tokens: int) -> int:
        """Rows in use after ``tokens`` tokens, all from row 0."""
        return tokens - self.first(tokens)

    def room(self, tokens: int) -> int | None:
        """How many tokens can follow before rows are evicted; None: as many as there are."""
        return None if self.rows is None else self.rows - self.held(tokens)

    def allocated(self, tokens: int, *, most: int) -> int:
        """Rows to allocate for ``tokens`` tokens of a sequence of ``most`` at most."""
        return growing_rows(tokens, most=most) if self.rows is None else self.rows


def default_rows(window: int | None) -> int | None:
    """Rows for a window: an eighth more than it, at least 16 more.

    The slack buys rarer evictions with memory; 16 is what onnxruntime-genai needs.
    """
    return None if window is None else window + max(16, window // 8)


def by_layer(values: Sequence[int | None], *, none: str) -> int | str:
    """Windows or rows of the layers for people: one number where all are equal, else a list.

    >>> by_layer([64, 64], none="none"), by_layer([64, None], none="none")
    (64, '64, none (layer by layer)')
    """
    shown = [none if value is None else value for value in values]
    if len(set(shown)) == 1:
        return shown[0]
    return f"{', '.join(map(str, shown))} (layer by layer)"


def growing_rows(tokens: int, *, most: int) -> int:
    """Rows of a cache that grows and holds so many tokens; it doubles when it is full."""
    rows = _FIRST_ROWS
    while rows < tokens:
        rows *= 2
    return min(rows, most)
