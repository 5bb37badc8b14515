"""Compares the rows of a cache with the reference's for the positions that they should hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime.cache import CacheLayout
from ...runtime.sizes import counted
from ..figures import relative_errors
from ..reference.reference import ReferenceRun
from ..run_graph import CacheRows


@dataclass(frozen=True, kw_only=True, slots=True)
class RowError:
    """The cached row that is furthest from the reference's for the position it should hold."""

    error: float  # length of the difference over that of the row
    mean: float  # over the rows of the layer where it is largest
    layer: int
    kind: str  # key or value
    position: int
    tokens: int  # fed when it was looked at

    def __str__(self) -> str:
        return (
            f"layer {self.layer}, {self.kind} of position {self.position}, after "
            f"{counted(self.tokens, 'token')}"
        )


def worse(one: RowError | None, other: RowError) -> RowError:
    """The worst row and the largest mean of two looks at a cache; ``one`` may be the first."""
    if one is None:
        return other
    worst = one if one.error >= other.error else other  # a NaN in the other is worse
    return dataclasses.replace(worst, mean=max(one.mean, other.mean))


def row_error(
    cache: CacheRows, run: ReferenceRun, layouts: Sequence[CacheLayout], tokens: int
) -> RowError:
    """Compare each row with the reference's for the position that it should hold."""
    worst, means = [], []
    for layer, (pair, layout) in enumerate(zip(cache, layouts, strict=True)):
        first = layout.first(tokens)
        for kind, rows, all_rows in zip(
            ("key", "value"), pair, (run.keys, run.values), strict=True
        ):
            errors = relative_errors(all_rows[layer][:, first:tokens], rows)
            index = np.unravel_index(np.argmax(np.nan_to_num(errors, nan=np.inf)), errors.shape)
            worst.append((float(errors[index]), layer, kind, first + int(index[1])))
            means.append(float(errors.mean()))
    error, layer, kind, position = max(worst, key=lambda one: np.nan_to_num(one[0], nan=np.inf))
    return RowError(
        error=error,
        mean=max(means),
        layer=layer,
        kind=kind,
        position=position,
        tokens=tokens,
    )
