"""Compares the cached rows of a layer, and the scales of an int8 cache, with what they should be.

Rounded rows may differ by half a step; scales are compared with those that would fit the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...runtime.cache import CacheLayout
from ...runtime.sizes import counted
from ..reference.held_rows import Held
from ..run_graph import CacheOfLayers
from ..tolerance import Tolerance
from .findings import IN_HALF, SCALES, ComparedTensor, LayerFinding

_COARSENESS = "median scale over the scale that fits the channel's largest value"
_CLIPPED = "share of values that are clipped"
_FEWEST_ROWS = 64  # with fewer, the largest value is no estimate of a channel's range


def scales_of(
    number: int, held: tuple[Held, Held], tolerance: Tolerance
) -> Iterator[ComparedTensor]:
    """Compare the scales of an int8 cache with those that fit the rows best."""
    for kind, one in zip(("key", "value"), held, strict=True):
        rows, scales = one.exact, one.scales
        if scales is None or rows.shape[1] < _FEWEST_ROWS:
            continue
        largest = np.abs(rows).max(axis=1, keepdims=True)
        best = np.maximum(largest / 127, np.finfo(np.float32).tiny)
        clipped = (rows > 127.5 * scales) | (rows < -128.5 * scales)
        for error, bound, detail in (
            (np.median(scales / best), tolerance.cache_coarseness, _COARSENESS),
            (clipped.mean(), tolerance.cache_clipped, _CLIPPED),
        ):
            finding = LayerFinding(
                layer=number,
                name=f"{kind} {SCALES}",
                kind="rows",
                error=float(error),
                bound=bound,
                position=None,
                detail=detail,
            )
            found = np.broadcast_to(scales, best.shape)
            yield ComparedTensor(
                finding=finding, inputs={"rows": rows}, found=found, expected=best
            )


def rows_of(
    number: int,
    held: tuple[Held, Held],
    caches: Sequence[tuple[int, CacheOfLayers]],
    *,
    layout: CacheLayout,
    tolerance: Tolerance,
    inputs: dict[str, np.ndarray],
) -> Iterator[ComparedTensor]:
    """Compare cached rows: those before any eviction as rope's, all others as the cache's.

    Args:
        number: the layer's.
        held: what its rows should be.
        caches: of layers, this one among them, after so many tokens.
        layout: which rows are held.
        tolerance: the recipe's.
        inputs: of the layer's attention, to find the cause.
    """
    early = [stage for stage in caches if layout.first(stage[0]) == 0]
    late = [stage for stage in caches if layout.first(stage[0]) > 0]
    for name, index, stages in (
        ("rope", 0, early),
        ("cached keys", 0, late),
        ("cached values", 1, early + late),
    ):
        one = held[index]
        worst: tuple[float, int, int] | None = None
        rows = one.read
        for total, cache in stages:
            first = layout.first(total)
            errors = one.errors(cache[number][index], slice(first, total))
            errors = np.nan_to_num(errors, nan=np.inf).max(axis=0)
            if worst is None or errors.max() > worst[0]:
                worst = float(errors.max()), first + int(errors.argmax()), total
                rows = cache[number][index]
        if worst is None:
            continue
        finding = LayerFinding(
            layer=number,
            name=name,
            kind="operators" if name == "rope" else "rows",
            error=worst[0],
            bound=(tolerance.float_error if one.scales is None else tolerance.cache_step_error),
            position=worst[1],
            detail=f"after {counted(worst[2], 'token')}",
        )
        details = {"tokens": np.array(worst[2])}
        if one.scales is not None:
            details[SCALES] = one.scales
        if one.is_half:
            details[IN_HALF] = np.array(True)
        yield ComparedTensor(
            finding=finding, inputs={**inputs, **details}, found=rows, expected=one.read
        )
