"""Likely causes of wrong cached rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...runtime.cache import CacheLayout
from ..figures import relative_errors
from ..layer_checks.findings import IN_HALF, ComparedTensor
from ..reference.reference import ReferenceRun
from .rank_causes import Cause, Found, likeliest

_LARGEST_HALF = 65504
_SAME = 1e-3  # rows that differ by less are the same row
_MOST_ROWS = 256  # rows that are searched at other positions
_NEAR_WINDOWS = 64  # how far from the right window others are tried
_MOST = 0.9  # of the misplaced rows that must follow a pattern


def cause_of_rows(
    compared: ComparedTensor, layout: CacheLayout, run: ReferenceRun, *, is_attention_sound: bool
) -> Found | None:
    """The most likely cause and its evidence, or None.

    Args:
        compared: rows found (G, L, D), and those of all positions (G, T, D).
        layout: which rows the cache should hold.
        run: of the reference on the same tokens, for the rows of other layers.
        is_attention_sound: whether the layer's attention is correct nevertheless.
    """
    first = layout.first(int(compared.inputs["tokens"]))
    return (
        _overflowing(compared)
        or _misplaced(compared, first, None if is_attention_sound else layout)
        or _never_written(compared)
        or _of_another_kind(compared, first)
        or _of_another_layer(compared, run, first)
    )


def _overflowing(compared: ComparedTensor) -> Found | None:
    """Numbers that half precision does not hold."""
    lost = int((~np.isfinite(compared.found)).sum())
    if IN_HALF not in compared.inputs or not lost:
        return None
    return (
        f"keys or values are beyond {_LARGEST_HALF}, the largest number in half precision; export "
        "with --kv float32",
        f"{lost} of {compared.found.size} cached numbers are infinite or not a number",
    )


def _never_written(compared: ComparedTensor) -> Found | None:
    """Rows that are zero, as all are before the first token."""
    empty = np.flatnonzero(~compared.found.any(axis=(0, 2)))
    if not len(empty) or len(empty) == compared.found.shape[1]:
        return None
    return (
        f"row {empty[0]} is never written: it holds zeros",
        f"{len(empty)} of {compared.found.shape[1]} rows hold zeros alone",
    )


def _misplaced(compared: ComparedTensor, first: int, layout: CacheLayout | None) -> Found | None:
    """Rows of other positions: shifted, reversed, or out of order."""
    rows, positions = (_by_position(x) for x in (compared.found, compared.expected))
    own = first + np.arange(len(rows))
    wrong = np.flatnonzero(~(relative_errors(positions[own], rows) <= _SAME))
    held = {int(r): _nearest(rows[r], positions) for r in wrong[:_MOST_ROWS]}
    known = {r: p for r, p in held.items() if _error(rows[r], positions[p]) < _SAME}
    if not held or len(known) < len(held) / 2:
        return None
    evidence = f"{len(known)} of {len(held)} wrong rows are exactly those of other positions"
    shifts = [p - int(own[r]) for r, p in known.items()]
    commonest = max(set(shifts), key=shifts.count)
    example, position = next(iter(known.items()))
    example_text = f"row {example} holds position {position}, expected {own[example]}"
    if shifts.count(commonest) >= _MOST * len(shifts) and len(known) > 1:
        if first == 0:
            return f"cached rows are off by {abs(commonest)}: {example_text}", evidence
        late = "late" if commonest < 0 else "early"
        why = ""
        if layout is not None:
            total = int(compared.inputs["tokens"])
            window = _window_that_holds(first + commonest, total, layout)
            why = f"the window is {window}, expected {layout.window}: " if window else ""
        return f"{why}rows are evicted {late}: {example_text}", evidence
    falling = np.diff(list(known.values())) < 0
    if len(known) > 2 and falling.mean() >= _MOST:
        return "rows are stored newest first, expected oldest first", evidence
    return f"rows are in another order: {example_text}", evidence


def _window_that_holds(first: int, tokens: int, layout: CacheLayout) -> int | None:
    """The nearby window whose cache, with as many rows, would begin at ``first``."""
    W, C = layout.window, layout.rows
    if W is None or C is None:
        return None
    near = [W + 1, W - 1, *range(W + 2, C + 1), *range(W - 2, max(0, W - _NEAR_WINDOWS), -1)]
    return next((w for w in near if CacheLayout(window=w, rows=C).first(tokens) == first), None)


def _by_position(heads: np.ndarray) -> np.ndarray:
    """(G, T, D) to (T, G * D) float64."""
    return heads.swapaxes(0, 1).reshape(heads.shape[1], -1).astype(np.float64)


def _nearest(row: np.ndarray, positions: np.ndarray) -> int:
    return int(np.linalg.norm(positions - row, axis=1).argmin())


def _error(row: np.ndarray, expected: np.ndarray) -> float:
    return float(relative_errors(expected, row))


def _of_another_kind(compared: ComparedTensor, first: int) -> Found | None:
    """Keys for values, or heads in another order."""
    count = compared.found.shape[1]
    own = compared.expected[:, first : first + count]

    def causes() -> Iterator[Cause]:
        yield Cause("key/value heads are in another order", own[::-1])
        other = compared.inputs["key" if "values" in compared.finding.name else "value"]
        heads = other.reshape(len(other), len(own), -1).swapaxes(0, 1)
        yield Cause("keys and values are swapped", heads[:, first : first + count])

    def score(result: np.ndarray) -> float:
        return float(np.nan_to_num(np.median(relative_errors(result, compared.found)), nan=np.inf))

    return likeliest(causes(), score, error=score(own), bound=compared.finding.bound)


def _of_another_layer(compared: ComparedTensor, run: ReferenceRun, first: int) -> Found | None:
    """The layer whose rows, by the reference, most of these are nearest to."""
    of_all = run.values if "values" in compared.finding.name else run.keys
    own, count = compared.finding.layer, compared.found.shape[1]
    errors = np.array(
        [
            relative_errors(rows[:, first : first + count], compared.found).mean(axis=0)
            for rows in of_all
        ]
    )
    wrong = errors[own] > errors.min(axis=0) * 2
    if own is None or not wrong.any():
        return None
    nearest = int(np.bincount(errors.argmin(axis=0)[wrong]).argmax())
    if nearest == own:
        return None
    theirs, its = errors[nearest][wrong].mean(), errors[own][wrong].mean()
    some = f"{int(wrong.sum())} of {count} rows"
    return (
        f"bound to the wrong layer: {some} are those of layer {nearest}",
        f"they differ from these by {theirs:.1e}, from its own by {its:.1e}",
    )
