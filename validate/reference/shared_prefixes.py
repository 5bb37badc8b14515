"""Which sequence begins with the tokens of one before it, so that those are computed once.

A position's numbers follow from the tokens up to it. So a sequence continues from the keys and
values that another left at their common beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_FEWEST_SHARED = 64  # tokens; for fewer it is not worth a way of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Continued:
    """A sequence, and how much of it another computes."""

    tokens: np.ndarray  # (T,) int64
    base: int | None  # number of the sequence that it continues; None: it is computed whole
    shared: int  # tokens that both begin with

    @property
    def new(self) -> np.ndarray:
        """The tokens that are left to compute."""
        return self.tokens[self.shared :]


Rows = tuple[np.ndarray, np.ndarray]  # keys and values, (G, T, D) float32 each


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A run that is computed: where its numbers go, and those of the run that it continues."""

    part: Continued
    arrays: Mapping[str, np.ndarray]  # logits (T, V); keys and values (layers, G, T, D)
    base: Mapping[str, np.ndarray] | None

    def prefix(self, layer: int, *, changed: bool = False) -> Rows | None:
        """Keys and values that its new tokens continue from; ``changed``: of the second run."""
        if self.base is None:
            return None
        keys, values = (
            self.base[name][layer][:, : self.part.shared] for name in rows_named(changed=changed)
        )
        return keys, values

    def fill(self, layer: int, rows: Rows, *, changed: bool = False) -> None:
        """Store keys and values of its new tokens, behind those that it continues from."""
        before = self.prefix(layer, changed=changed)
        for index, name in enumerate(rows_named(changed=changed)):
            if before is not None:
                self.arrays[name][layer][:, : self.part.shared] = before[index]
            self.arrays[name][layer][:, self.part.shared :] = rows[index]

    def logits(self, name: str = "logits") -> np.ndarray:
        """Where the logits of its new tokens go; those of the others are copied before them."""
        if self.base is not None:
            self.arrays[name][: self.part.shared] = self.base[name][: self.part.shared]
        return self.arrays[name][self.part.shared :]


def work_of(
    number: int,
    parts: Sequence[Continued],
    keys: Sequence[str],
    known: Mapping[str, Mapping[str, np.ndarray]],
) -> Work:
    """The run of one of the sequences, whose arrays and those of others are known by key."""
    part = parts[number]
    base = None if part.base is None else known[keys[part.base]]
    return Work(part=part, arrays=known[keys[number]], base=base)


def rows_named(*, changed: bool = False) -> tuple[str, str]:
    """Names of the arrays of keys and values, of the first run or of the changed one."""
    return ("changed keys", "changed values") if changed else ("keys", "values")


def continued(sequences: Sequence[np.ndarray]) -> list[Continued]:
    """Each sequence with the longest beginning that it shares with a whole one before it.

    >>> a = np.arange(100)
    >>> [(one.base, one.shared) for one in continued([a, a[::-1], a[:70], a])]
    [(None, 0), (None, 0), (0, 69), (None, 0)]
    """
    found: list[Continued] = []
    for number, tokens in enumerate(sequences):
        shared = [_common(tokens, other.tokens) if other.base is None else 0 for other in found]
        longest = max(shared, default=0)
        is_whole = any(np.array_equal(tokens, other) for other in sequences[:number])
        if longest < _FEWEST_SHARED or is_whole:
            found.append(Continued(tokens=tokens, base=None, shared=0))
        else:
            found.append(Continued(tokens=tokens, base=shared.index(longest), shared=longest))
    return found


def _common(tokens: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two sequences begin with alike; one of the first is left to compute."""
    length = min(len(tokens) - 1, len(other))
    differing = np.flatnonzero(tokens[:length] != other[:length])
    return int(differing[0]) if len(differing) else length
