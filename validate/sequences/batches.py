"""Checks of batches: two sequences together, with and without padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime import contract
from ...runtime.sizes import counted
from ..artifact_under_test import Subject
from ..figures import compare
from ..reference.recipe_reference import Expected
from ..reference.reference import ReferenceRun
from ..run_graph import CacheRows
from ..tolerance import Tolerance
from ..verdict import Check
from .sequences import cache_check, logits_check, row_error
from .tokens import STAND_IN_WINDOW


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRow:
    """One sequence of a batch: padded in the first call, then token by token."""

    source: str
    length: int  # tokens of the first call
    padding: int  # tokens 0 beside them
    pads_left: bool  # before them, not behind them
    logits: np.ndarray  # (T, V) float32 of all its tokens, padding left out
    cache: CacheRows

    def __str__(self) -> str:
        steps = len(self.logits) - self.length
        side = " padded on the left" if self.pads_left else ""
        return f"batch of 2{side}, {self.source}, {self.length} and {counted(steps, 'token')}"


def feed_batch(
    subject: Subject, runs: Sequence[ReferenceRun], *, pads_left: bool = False
) -> list[BatchRow]:
    """Two sequences in one batch, then token by token past the edge; of two lengths if allowed."""
    longest = min(len(run.tokens) for run in runs)
    widest = subject.edges[-1]  # past whose edge all others lie as well
    window = widest.window or STAND_IN_WINDOW
    steps = min(24, longest // 2)
    first = min((widest.rows or window) - 4, longest - steps)
    second = max(1, window // 2) if subject.takes_ragged_batches else first
    lengths = np.minimum([first, second], longest - steps)
    feeder = subject.graph_feeder(batch_size=2)
    ids = np.zeros((2, first), np.int64)
    places = [slice(first - n, first) if pads_left else slice(n) for n in lengths]
    for row, (run, place) in enumerate(zip(runs, places, strict=True)):
        ids[row, place] = run.tokens[: lengths[row]]
    found = feeder.run(ids, [contract.LOGITS], lengths=lengths, pads_left=pads_left)
    later = []
    for step in range(steps):
        column = [run.tokens[n + step] for run, n in zip(runs, lengths, strict=True)]
        later.append(feeder.run(np.array(column)[:, None], [contract.LOGITS])[contract.LOGITS])
    return [
        BatchRow(
            source=("text", "random")[row],
            length=int(lengths[row]),
            padding=int(first - lengths[row]),
            pads_left=pads_left,
            logits=np.concatenate(
                [found[contract.LOGITS][row, place], *(piece[row] for piece in later)]
            ),
            cache=feeder.cache(row),
        )
        for row, place in enumerate(places)
    ]


def feed_batches(subject: Subject, runs: Sequence[ReferenceRun]) -> Iterator[BatchRow]:
    """Each sequence of each batch, in the order of ``runs``: padded on both sides if allowed."""
    for pads_left in (False, True) if subject.takes_ragged_batches else (False,):
        yield from feed_batch(subject, runs, pads_left=pads_left)


def batch_checks(
    subject: Subject, expected: Sequence[Expected], tolerance: Tolerance
) -> Iterator[Check]:
    """Compare the sequences of batches, and what is cached of them, with the reference."""
    rows = feed_batches(subject, [one.run for one in expected])
    for row, (run, floor) in zip(rows, itertools.cycle((e.run, e.floor) for e in expected)):
        total = len(row.logits)
        figures = compare(run.logits[:total], row.logits, run.tokens[:total])
        yield logits_check(str(row), figures, tolerance.logits_bounds(floor, total), kind="batch")
        worst = row_error(row.cache, run, subject.layouts, total)
        yield cache_check(f"cache, {row}", worst, tolerance.cache_bounds(floor))
