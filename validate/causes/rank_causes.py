"""Ranks causes by how close the changed reference comes to the artifact's output.

Every cause is a change to what the reference does with the artifact's own inputs. The one whose
result is nearest is named if it is as near as an artifact without fault would be, or nearly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

Found = tuple[str, str]  # a cause, and the evidence for it
Score = Callable[[np.ndarray], float]

_NEAR = 0.03  # of the error without a cause: what is left must be less, where it isn't in bounds


@dataclass(frozen=True, slots=True)
class Cause:
    """A change to the reference, in words, and what it would give."""

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
    """Everything one place further, or one place back."""
    for by, where in ((1, "before"), (-1, "after")):
        yield Cause(f"{what} are off by one: each is the one {where} it", np.roll(x, by, axis))
