"""What would make cached rows what they are?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..runtime.cache import CacheLayout
from .causes import Cause, likeliest
from .dissect import Exhibit
from .figures import relative_errors
from .reference import Run

_MOST_SHIFT = 32  # positions that rows are looked for around where they should be


def cause_of_rows(exhibit: Exhibit, layout: CacheLayout, run: Run) -> tuple[str, str] | None:
    """The likeliest cause and its evidence, or None.

    Args:
        exhibit: rows found (G, L, D), and those of all positions (G, T, D).
        layout: which rows the cache should hold.
        run: of the reference on the same tokens, for the rows of other layers.
    """
    total, rows, positions = int(exhibit.inputs["tokens"]), exhibit.found, exhibit.expected
    first, count = layout.first(total), rows.shape[1]

    def score(result: np.ndarray) -> float:
        return float(np.nan_to_num(np.median(relative_errors(result, rows)), nan=np.inf))

    def causes() -> Iterator[Cause]:
        for shift in range(-min(first, _MOST_SHIFT), _MOST_SHIFT + 1):
            kept = positions[:, first + shift : first + shift + count]
            if shift and kept.shape == rows.shape:
                late = "late" if shift < 0 else "early"
                text = f"rows leave the cache {late}: row 0 holds position {first + shift}"
                yield Cause(f"{text}, expected {first}", kept)
        own = positions[:, first : first + count]
        yield Cause("rows lie newest first, expected oldest first", own[:, ::-1])
        yield Cause("key/value heads are in another order", own[::-1])
        other = "value" if exhibit.finding.name == "cached keys" else "key"
        swapped = exhibit.inputs[other].reshape(len(positions[0]), len(rows), -1).swapaxes(0, 1)
        yield Cause("keys and values are swapped", swapped[:, first : first + count])

    error = score(positions[:, first : first + count])
    found = likeliest(causes(), score, error=error, bound=exhibit.finding.bound)
    return found or _other_layer(exhibit, run, first)


def _other_layer(exhibit: Exhibit, run: Run, first: int) -> tuple[str, str] | None:
    """The layer whose rows, by the reference, are nearest."""
    of_all = run.keys if exhibit.finding.name == "cached keys" else run.values
    count = exhibit.found.shape[1]
    errors = [
        float(np.median(relative_errors(rows[:, first : first + count], exhibit.found)))
        for rows in of_all
    ]
    nearest = int(np.argmin(errors))
    own = exhibit.finding.layer
    if own is None or nearest == own or errors[nearest] > errors[own] / 2:
        return None
    return (
        f"present is bound to the wrong layer: its rows are those of layer {nearest}",
        f"they differ from these by {errors[nearest]:.1e}, from its own by {errors[own]:.1e}",
    )
