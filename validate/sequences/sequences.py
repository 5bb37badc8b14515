"""Checks of whole sequences, fed in one shot, in chunks, in turns and stepwise."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime.cache import CacheLayout
from ...runtime.sizes import counted
from ..figures import Figures, compare
from ..reference.recipe_reference import Expected
from ..reference.reference import ReferenceRun
from ..run_graph import SequenceRunner
from ..tolerance import Tolerance
from ..verdict import Check, judged
from .beginnings import Beginnings, Begun, Pieces
from .row_errors import RowError, row_error, worse
from .tokens import Spans, chunks, turns, until

_FEW_PIECES = 64  # up to so many pieces the cache is checked after each, else after each eviction


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

    def pieces(self, shared: int) -> Pieces:
        """The pieces, those of the first ``shared`` tokens alike for all sources."""
        return pieces_of(self.source, self.cuts, shared)

    def __str__(self) -> str:
        return f"{self.source}, {self.mode}, {counted(self.length, 'token')}"


def pieces_of(source: str, cuts: Sequence[int], shared: int) -> Pieces:
    """Pieces of these sizes, those of the first ``shared`` tokens alike for all sources."""
    ends = itertools.accumulate(cuts)
    return tuple(
        (size, "" if end <= shared else source) for size, end in zip(cuts, ends, strict=True)
    )


def feeds(source: str, edges: Sequence[CacheLayout], spans: Spans) -> list[Feed]:
    """All ways of feeding one sequence, the fastest first."""
    longest, (start, end) = spans.longest, spans.stepped[source]
    whole = chunks(edges, longest)
    stepped = [*until(whole[:1], start), *[1] * (end - start)]  # the first piece is shared
    ways = [("one shot", [length]) for length in spans.one_shot[source]]
    ways += [("chunked", whole), ("turns", turns(edges, longest)), ("stepped", stepped)]
    return [Feed(source=source, mode=mode, cuts=tuple(cuts)) for mode, cuts in ways]


def feed_and_watch(
    runner: SequenceRunner,
    run: ReferenceRun,
    pieces: Pieces,
    layouts: Sequence[CacheLayout],
    beginnings: Beginnings,
) -> tuple[np.ndarray, RowError]:
    """Feed a new sequence in pieces, and check the cache after them.

    Returns:
        logits (T, V) float32, and the worst row.
    """
    length = sum(size for size, _ in pieces)
    logits = np.empty((length, run.logits.shape[1]), np.float32)
    begun = beginnings.longest(pieces)
    total, worst = _continued(runner, begun, logits)
    fed = 0 if begun is None else len(begun.pieces)
    first = [layout.first(total) for layout in layouts]
    if begun is not None and worst is None:
        worst = row_error(runner.cache(), run, layouts, total)
        begun.worst = worst
    for number, (size, _) in enumerate(pieces[fed:], start=fed + 1):
        piece = slice(total, total + size)
        logits[piece] = runner.feed(run.tokens[piece])
        total += size
        is_shared = pieces[:number] in beginnings.shared
        is_telling = is_shared or len(pieces) <= _FEW_PIECES or number == len(pieces)
        now = [layout.first(total) for layout in layouts]
        if is_telling or now != first:
            worst = worse(worst, row_error(runner.cache(), run, layouts, total))
            beginnings.keep(pieces[:number], logits[:total], worst, runner)
        first = now
    beginnings.end(pieces)
    assert worst is not None, "the last piece is always looked at"
    return logits, worst


def _continued(
    runner: SequenceRunner, begun: Begun | None, logits: np.ndarray
) -> tuple[int, RowError | None]:
    """Begin a sequence, or return to one whose logits are copied: its tokens, its worst row."""
    if begun is None:
        runner.reset()
        return 0, None
    runner.restore(begun.state)
    logits[: len(begun.logits)] = begun.logits
    return len(begun.logits), begun.worst


def check_feed(
    runner: SequenceRunner,
    expected: Expected,
    feed: Feed,
    pieces: Pieces,
    layouts: Sequence[CacheLayout],
    tolerance: Tolerance,
    beginnings: Beginnings,
) -> tuple[list[Check], np.ndarray]:
    """Feed a sequence one way; return the checks of logits and cache, and the logits (T, V)."""
    run, floor = expected.run, expected.floor
    logits, worst = feed_and_watch(runner, run, pieces, layouts, beginnings)
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


def greedy_tokens(
    runner: SequenceRunner, prompt: np.ndarray, steps: int, pieces: Pieces, beginnings: Beginnings
) -> np.ndarray:
    """A prompt and its greedy continuation by the artifact: (T,) int64."""
    runner.reset()
    found, tokens = runner.feed(prompt), [int(token) for token in prompt]
    beginnings.keep(pieces, found, None, runner)
    beginnings.end(pieces)
    for step in range(steps):
        tokens.append(int(found[-1].argmax()))
        if step + 1 < steps:
            found = runner.feed(np.array(tokens[-1:], np.int64))
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
