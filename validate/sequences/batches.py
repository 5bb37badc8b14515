"""Checks of batches: two sequences together, with and without padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime import contract
from ...runtime.cache import CacheLayout
from ...runtime.sizes import counted
from ..figures import compare
from ..graph_under_test import GraphUnderTest
from ..reference.recipe_reference import Expected
from ..reference.reference import ReferenceRun
from ..tolerance import Tolerance
from ..verdict import Check
from .row_errors import RowError, row_error
from .sequences import cache_check, logits_check
from .tokens import STAND_IN_WINDOW, at_most

_ROWS_AT_ONCE = 1024  # of each sequence of a batch


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRow:
    """One sequence of a batch: padded in the first call, at last token by token."""

    source: str
    length: int  # tokens of the first call
    padding: int  # tokens 0 beside them
    pads_left: bool  # before them, not behind them
    logits: np.ndarray  # (T, V) float32 of all its tokens, padding left out
    worst: RowError  # of what is cached of it

    def __str__(self) -> str:
        steps = len(self.logits) - self.length
        side = " padded on the left" if self.pads_left else ""
        return f"batch of 2{side}, {self.source}, {self.length} and {counted(steps, 'token')}"


def prompt_and_steps(edges: Sequence[CacheLayout], *, longest: int) -> tuple[int, int]:
    """Tokens of the longer prompt, up to an eviction, and of the steps across it."""
    widest = edges[-1]  # past whose edge all others lie as well
    steps = min(24, longest // 2)
    return min((widest.rows or widest.window or STAND_IN_WINDOW) - 4, longest - steps), steps


def feed_batch(
    tested: GraphUnderTest,
    runs: Sequence[ReferenceRun],
    *,
    is_ragged: bool = False,
    pads_left: bool = False,
) -> list[BatchRow]:
    """Two sequences in one batch, at last token by token past the edge.

    A prompt of more than ``_ROWS_AT_ONCE`` tokens is fed in pieces. Where the graph cannot append
    a piece to both sequences, each has a run of its own, as in the driver; and two of different
    lengths have shorter prompts, of one piece.

    Args:
        tested: the graph.
        runs: of the reference, on two sequences.
        is_ragged: whether the sequences differ in length, and the shorter one is padded.
        pads_left: before its tokens, not behind them.
    """
    longest = min(len(run.tokens) for run in runs)
    first, steps = prompt_and_steps(tested.edges, longest=longest)
    if is_ragged and not tested.appends_to_batches:
        first = min(first, _ROWS_AT_ONCE)
    window = tested.edges[-1].window or STAND_IN_WINDOW
    second = min(first, max(1, window // 2)) if is_ragged else first
    lengths = np.minimum([first, second], longest - steps)
    if first > _ROWS_AT_ONCE:  # the scores of two such prompts would take gigabytes
        lengths = lengths * _ROWS_AT_ONCE // first
    rest = first - int(lengths[0])  # of the prompt, for both sequences
    first -= rest
    runner = tested.graph_runner(batch_size=2)
    ids = np.zeros((2, first), np.int64)
    places = [slice(first - n, first) if pads_left else slice(n) for n in lengths]
    for row, (run, place) in enumerate(zip(runs, places, strict=True)):
        ids[row, place] = run.tokens[: lengths[row]]
    found = runner.run(ids, [contract.LOGITS], lengths=lengths, pads_left=pads_left)
    later, done = [], 0
    for size in [*at_most(_ROWS_AT_ONCE, [rest]), *[1] * steps]:
        columns = np.stack(
            [run.tokens[n + done : n + done + size] for run, n in zip(runs, lengths, strict=True)]
        )
        append = runner.run if size == 1 or tested.appends_to_batches else runner.run_alone
        later.append(append(columns, [contract.LOGITS])[contract.LOGITS])
        done += size
    rows = []
    for row, (run, place) in enumerate(zip(runs, places, strict=True)):
        parts = [found[contract.LOGITS][row, place], *(piece[row] for piece in later)]
        logits = np.concatenate(parts)
        rows.append(
            BatchRow(
                source=("text", "random")[row],
                length=int(lengths[row]),
                padding=int(first - lengths[row]),
                pads_left=pads_left,
                logits=logits,
                worst=row_error(runner.cache(row), run, tested.layouts, len(logits)),
            )
        )
    return rows


def feed_batches(tested: GraphUnderTest, runs: Sequence[ReferenceRun]) -> Iterator[BatchRow]:
    """Each sequence of each batch, in the order of ``runs``: padded on both sides if allowed."""
    if tested.takes_ragged_batches:
        for pads_left in (False, True):
            yield from feed_batch(tested, runs, is_ragged=True, pads_left=pads_left)
        longest = min(len(run.tokens) for run in runs)
        prompt, _ = prompt_and_steps(tested.edges, longest=longest)
        if tested.appends_to_batches or prompt <= _ROWS_AT_ONCE:
            return  # they crossed the edge
    yield from feed_batch(tested, runs)


def batch_checks(
    tested: GraphUnderTest, expected: Sequence[Expected], tolerance: Tolerance
) -> Iterator[Check]:
    """Compare the sequences of batches, and what is cached of them, with the reference."""
    rows = feed_batches(tested, [one.run for one in expected])
    for row, (run, floor) in zip(rows, itertools.cycle((e.run, e.floor) for e in expected)):
        total = len(row.logits)
        figures = compare(run.logits[:total], row.logits, run.tokens[:total])
        yield logits_check(str(row), figures, tolerance.logits_bounds(floor, total), kind="batch")
        yield cache_check(f"cache, {row}", row.worst, tolerance.cache_bounds(floor))
