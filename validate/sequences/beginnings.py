"""Pieces that several ways of feeding share at their start: fed once, and kept.

A run of the same pieces gives the same numbers. So where one way begins with the pieces of
another, such as a prompt of W - 1 tokens, it continues from a copy of the sequence after them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..run_graph import SequenceRunner, State
from .row_errors import RowError

# How many tokens, and of what: equal pieces behind equal ones are the same tokens.
Piece = tuple[int, str]
Pieces = tuple[Piece, ...]


@dataclass(kw_only=True, slots=True)
class Begun:
    """A sequence after its first pieces."""

    pieces: Pieces
    logits: np.ndarray  # (T, V) float32 of all its tokens
    worst: RowError | None  # of the cache after each of the pieces; None: not looked at yet
    state: State  # for the runner that made it


class Beginnings:
    """The shared beginnings of all ways of feeding."""

    def __init__(self, ways: Iterable[Pieces]) -> None:
        """Find them; nothing is fed.

        >>> a, b, c = (63, ""), (2, "text"), (2, "random")
        >>> sorted(Beginnings([(a,), (a, b), (a, c, c), (a, c, b)]).shared)
        [((63, ''),), ((63, ''), (2, 'random'))]
        """
        self._waiting = list(ways)
        self.shared: set[Pieces] = set()
        for one, other in itertools.combinations(self._waiting, 2):
            if common := _common(one, other):
                self.shared.add(common)
        self._kept: dict[Pieces, Begun] = {}

    def longest(self, pieces: Pieces) -> Begun | None:
        """The longest beginning of a way that is kept."""
        fitting = [one for one in self._kept.values() if pieces[: len(one.pieces)] == one.pieces]
        return max(fitting, key=lambda one: len(one.pieces), default=None)

    def keep(
        self, pieces: Pieces, logits: np.ndarray, worst: RowError | None, runner: SequenceRunner
    ) -> None:
        """Copy the sequence, if other ways begin with it."""
        if pieces in self.shared and pieces not in self._kept:
            self._kept[pieces] = Begun(
                pieces=pieces, logits=logits, worst=worst, state=runner.state()
            )

    def end(self, pieces: Pieces) -> None:
        """Note that a way was fed to its end, and drop what no other begins with."""
        self._waiting.remove(pieces)
        self._kept = {
            kept: one
            for kept, one in self._kept.items()
            if any(way[: len(kept)] == kept for way in self._waiting)
        }


def _common(one: Pieces, other: Pieces) -> Pieces:
    """The pieces that two ways begin with alike."""
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(size for size, _ in alike)
