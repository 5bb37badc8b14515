"""Ranks causes by how close the changed reference comes to the artifact's output.

A cause is a change to what the reference does with the artifact's own inputs. The cause with the
nearest result is named, if the result is about as near as that of an artifact without faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

Found = tuple[str, str]  # a cause, and the evidence for it
Score = Callable[[np.ndarray], float]

_NEAR = 0.03  # share of the error that may remain if it is not within bounds


@dataclass(frozen=True, slots=True)
class Cause:
    """A change to the reference, in words, and its result."""

    text: str
    result: np.ndarray


def likeliest(
    causes: Iterable[Cause], score: Score, *, error: float, bound: float, near: float = _NEAR
) -> Found | None:
    """The cause whose result is nearest, and the evidence; None where none is near.

    Args:
        causes: to be tried, one after the other.
        score: error of a result against what was found.
        error: of what the reference gives unchanged.
        bound: within which an artifact without fault lies.
        near: share of the error that may be left where that is more than the bound.
    """
    best, left = None, np.inf
    for cause in causes:
        found = score(cause.result)
        if found < left:
            best, left = cause.text, found
    if best is None or left > max(bound, near * error) or left > error / 2:
        return None
    return best, f"with this change the reference differs by {left:.1e}, without it by {error:.1e}"


def rolled(x: np.ndarray, axis: int, what: str) -> Iterator[Cause]:
    """Rows or columns moved by one place, forward and back."""
    for by, where in ((1, "before"), (-1, "after")):
        yield Cause(f"{what} are off by one: each is the one {where} it", np.roll(x, by, axis))
