"""Checks of whole sequences, fed in one shot, in chunks, in turns and stepwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime.cache import CacheLayout
from ...runtime.sizes import counted
from ..figures import Figures, compare, relative_errors
from ..reference.recipe_reference import Expected
from ..reference.reference import ReferenceRun
from ..run_graph import CacheRows, Feeder
from ..tolerance import Tolerance
from ..verdict import Check, judged
from .tokens import Spans, chunks, turns

_FEW_PIECES = 64  # up to so many pieces the cache is checked after each, else after each eviction


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """One way of feeding a sequence."""

    source: str  # text or random
    mode: str  # one shot, chunked, stepped or turns
    cuts: tuple[int, ...]  # sizes of the pieces

    @property
    def length(self) -> int:
        """Tokens in all."""
        return sum(self.cuts)

    def __str__(self) -> str:
        return f"{self.source}, {self.mode}, {counted(self.length, 'token')}"


def feeds(source: str, edges: Sequence[CacheLayout], spans: Spans) -> list[Feed]:
    """All ways of feeding one sequence, the fastest first."""
    longest, (start, end) = spans.longest, spans.stepped[source]
    stepped = ([start] if start else []) + [1] * (end - start)
    ways = [("one shot", [length]) for length in spans.lengths]
    ways += [
        ("chunked", chunks(edges, longest)),
        ("turns", turns(edges, longest)),
        ("stepped", stepped),
    ]
    return [Feed(source=source, mode=mode, cuts=tuple(cuts)) for mode, cuts in ways]


def feed_and_watch(
    feeder: Feeder, run: ReferenceRun, cuts: Sequence[int], layouts: Sequence[CacheLayout]
) -> tuple[np.ndarray, RowError]:
    """Feed a new sequence in pieces, and check the cache after them.

    Returns:
        logits (T, V) float32, and the worst row.
    """
    feeder.reset()
    logits = np.empty((sum(cuts), run.logits.shape[1]), np.float32)
    total, worst = 0, None
    first: list[int] = []
    for number, size in enumerate(cuts, start=1):
        piece = slice(total, total + size)
        logits[piece] = feeder.feed(run.tokens[piece])
        total += size
        is_telling = len(cuts) <= _FEW_PIECES or number == len(cuts)
        now = [layout.first(total) for layout in layouts]
        if is_telling or now != first:
            found = row_error(feeder.cache(), run, layouts, total)
            worst = found if worst is None else _worse(worst, found)
        first = now
    assert worst is not None, "the last piece is always looked at"
    return logits, worst


def _worse(one: RowError, other: RowError) -> RowError:
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


def check_feed(
    feeder: Feeder,
    expected: Expected,
    feed: Feed,
    layouts: Sequence[CacheLayout],
    tolerance: Tolerance,
) -> tuple[list[Check], np.ndarray]:
    """Feed a sequence one way; return the checks of logits and cache, and the logits (T, V)."""
    run, floor = expected.run, expected.floor
    logits, worst = feed_and_watch(feeder, run, feed.cuts, layouts)
    figures = compare(run.logits[: feed.length], logits, run.tokens[: feed.length])
    checks = [
        logits_check(str(feed), figures, tolerance.logits_bounds(floor, feed.length)),
        cache_check(f"cache, {feed}", worst, tolerance.cache_bounds(floor)),
    ]
    return checks, logits


def cache_check(name: str, worst: RowError, bounds: Mapping[str, float]) -> Check:
    """Compare the drift of cached rows with its bounds."""
    return judged(
        name=name,
        kind="cache",
        figures={"cache_error": worst.error, "mean_cache_error": worst.mean},
        bounds=bounds,
        where=str(worst),
    )


def logits_check(
    name: str, figures: Figures, bounds: Mapping[str, float], *, kind: str = "logits"
) -> Check:
    """Compare figures with their bounds."""
    return judged(
        name=name,
        kind=kind,
        figures=dataclasses.asdict(figures),
        bounds=bounds,
        where=f"worst at position {figures.worst_position}",
    )


def greedy_tokens(feeder: Feeder, prompt: np.ndarray, steps: int) -> np.ndarray:
    """A prompt and its greedy continuation by the artifact: (T,) int64."""
    feeder.reset()
    found, tokens = feeder.feed(prompt), [int(token) for token in prompt]
    for step in range(steps):
        tokens.append(int(found[-1].argmax()))
        if step + 1 < steps:
            found = feeder.feed(np.array(tokens[-1:], np.int64))
    return np.array(tokens, np.int64)


def greedy_check(
    plain: ReferenceRun, expected: Expected, *, prompt: int, tolerance: Tolerance
) -> Check:
    """Check each token that the artifact chose after a prompt.

    Both references score the artifact's continuation in one pass. In the recipe's reference, no
    chosen token's logit may be further below the largest than noise explains. With the float32
    reference, tokens are counted up to the first that it would not have chosen.

    Args:
        plain: the float32 reference on prompt and continuation.
        expected: the recipe's on the same.
        prompt: tokens before the continuation.
        tolerance: the bounds.
    """
    chosen = plain.tokens[prompt:]
    is_same = plain.logits[prompt - 1 : -1].argmax(axis=-1) == chosen
    logits = expected.run.logits[prompt - 1 : -1]
    gaps = logits.max(axis=-1) - np.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
    worst = int(np.nan_to_num(gaps, nan=np.inf).argmax())
    return judged(
        name=f"greedy, {counted(len(chosen), 'token')}",
        kind="greedy",
        figures={
            "same_greedy_tokens": len(chosen) if is_same.all() else int(is_same.argmin()),
            "greedy_tokens": len(chosen),
            "greedy_gap": float(gaps[worst]),
        },
        bounds=tolerance.greedy_bound(expected.floor),
        where=f"at position {prompt + worst}",
    )


def distance_check(source: str, figures: Figures, tolerance: Tolerance) -> Check:
    """How far the artifact is from the float32 model; bounded on text alone."""
    bounds = {"mean_kl": tolerance.max_kl, "same_top": tolerance.min_agreement}
    return judged(
        name=f"distance from the float32 model, {source}, {counted(figures.positions, 'token')}",
        kind="distance",
        figures=dataclasses.asdict(figures),
        bounds=bounds if source == "text" else {},
        where=f"worst at position {figures.worst_position}",
    )
