"""Compares the cached rows of a layer with the keys and values that were computed.

Float32 rows are compared with those computed, rounded ones within half a step: of their channel's
scale in int8, of the number itself in float16. Scales are compared with those that would fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..export.model.rope import Tables
from ..runtime.cache import CacheLayout
from ..runtime.contract import past
from ..runtime.sizes import counted
from .figures import relative_errors
from .layer_checks.findings import IN_HALF, SCALES, ComparedTensor, LayerFinding
from .reference import operators
from .run_graph import CacheRows
from .tolerance import Tolerance

_COARSENESS = "median scale over the scale that fits the channel's largest value"
_CLIPPED = "share of values that are clipped"
_FEWEST_ROWS = 64  # with fewer, the largest value is no estimate of a channel's range


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Expected keys or values of one layer, for all positions."""

    exact: np.ndarray  # (G, T, D) float32, rope applied
    read: np.ndarray  # the same as the cache gives them back: rounded where it has 8 bits
    before_rope: np.ndarray  # ``read`` before rope: (T, G * D)
    scales: np.ndarray | None  # of 8 bits, broadcasting to ``exact``; None: held in float
    is_half: bool  # held in half precision

    def errors(self, found: np.ndarray, positions: slice) -> np.ndarray:
        """How far rows (G, L, D) are from what they should be: (G, L).

        Relative to their lengths, beyond what rounding to half precision allows; in 8 bits, the
        steps beyond the half that rounding allows, where a number is not clipped.
        """
        if self.is_half:
            return _errors_beyond_half(self.exact[:, positions], found)
        if self.scales is None:
            return relative_errors(self.read[:, positions], found)
        exact = np.clip(self.exact, -128 * self.scales, 127 * self.scales)[:, positions]
        steps = np.abs(found - exact) / self.scales
        return np.asarray(np.maximum(steps.max(axis=-1) - 0.5, 0))


def hold(
    number: int,
    key: np.ndarray,
    value: np.ndarray,
    *,
    head_dim: int,
    rope: Tables,
    scales: Mapping[str, np.ndarray],
    is_half: bool,
) -> tuple[Held, Held]:
    """Keys and values (T, G * D), before rope, as a layer's cache is to hold them.

    Args:
        number: the layer's.
        key, value: as the projections made them.
        head_dim: D.
        rope: cosines and sines of all positions.
        scales: by the name of the past whose 8 bits they belong to; none for one in float.
        is_half: whether they are held in half precision.
    """
    keys, values = (operators.split_heads(x, head_dim) for x in (key, value))
    held = []
    for kind, plain, rows in (
        ("key", key, operators.rotate(keys, rope)),
        ("value", value, values),
    ):
        scale = scales.get(past(number, kind))
        read, before_rope = rows, plain
        if is_half:
            read = operators.in_half(rows)
        elif scale is not None:
            read = operators.in_bytes(rows, scale)
        if read is not rows:
            back = operators.rotate(read, rope, back=True) if kind == "key" else read
            before_rope = back.swapaxes(0, 1).reshape(plain.shape)
        held.append(
            Held(exact=rows, read=read, before_rope=before_rope, scales=scale, is_half=is_half)
        )
    return held[0], held[1]


def _errors_beyond_half(exact: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Distances from rows (G, L, D) beyond half a step of half precision, over their lengths."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float32)
        beyond = np.maximum(np.abs(found - exact) - steps / 2, 0)
    return relative_errors(exact, exact + beyond)


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
    caches: Sequence[tuple[int, CacheRows]],
    *,
    layout: CacheLayout,
    tolerance: Tolerance,
    inputs: dict[str, np.ndarray],
) -> Iterator[ComparedTensor]:
    """Compare cached rows: those before any eviction as rope's, all others as the cache's.

    Args:
        number: the layer's.
        held: what its rows should be.
        caches: of all layers, after so many tokens.
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
        told = {"tokens": np.array(worst[2])}
        if one.scales is not None:
            told[SCALES] = one.scales
        if one.is_half:
            told[IN_HALF] = np.array(True)
        yield ComparedTensor(
            finding=finding, inputs={**inputs, **told}, found=rows, expected=one.read
        )
