"""Does an export that is killed at random moments leave nothing half done, and the next one go on?"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.graphs.writing.partial_folder import partial_of

from .exports import (
    FORKS,
    GOING_ON,
    INT4,
    INT4_IN_FILES,
    INT8,
    INT8_IN_FILES,
    SLOW,
    Exports,
    until,
)
from .left_behind import Whole, assert_finished, assert_nothing_new, has_noted, noted, put

pytestmark = FORKS

LAST_WEIGHTS = 5  # are not waited for: the test that kills may be late by their time

# Kills of one export, again and again until it is let through: how many in its first stages, at
# random times while it reads and traces, and how many at random weights.
CHAINS = {
    "int8": (INT8, 3, 3, False),
    "int8 over an older artifact": (INT8, 0, 4, True),
    "int8 in files": (INT8_IN_FILES, 0, 3, False),
    "int4": (INT4, 0, 3, False),
    "int4 in files": (INT4_IN_FILES, 0, 4, False),
}


def test_an_export_is_killed_at_twenty_moments() -> None:
    assert sum(early + late for _, early, late, _ in CHAINS.values()) == 20


@pytest.mark.parametrize("chain", CHAINS)
def test_export_killed_at_random_moments_is_gone_on_with_to_the_same_bytes(
    exports: Exports, whole: Callable[..., Whole], out: Path, chain: str
) -> None:
    options, num_early, num_late, is_over_older = CHAINS[chain]
    expected = whole(*options, is_traced=num_early > 0)
    older = put(whole(*INT4), out) if is_over_older else {}
    chance = random.Random(chain)
    for _ in range(num_early):
        export = exports.start(out, *options, is_traced=True, slow_from=0)
        time.sleep(chance.uniform(0, 0.9 * expected.seconds))
        exports.kill(export)
        assert_nothing_new(out, older)
    for moment in sorted(chance.sample(range(1, len(expected.weights) - LAST_WEIGHTS), num_late)):
        is_begun, there = (partial_of(out) / "journal.jsonl").exists(), noted(out)
        count = max(moment, len(there) + 1)
        export = exports.start(out, *options, slow_from=count)
        until(functools.partial(has_noted, out, count), export)
        time.sleep(chance.uniform(0, SLOW))
        exports.kill(export)
        assert_nothing_new(out, older)
        assert (GOING_ON in export.said) == is_begun
        assert export.computed == expected.weights[len(there) :][: len(export.computed)]
        assert noted(out) == expected.weights[: len(noted(out))]
    there = noted(out)
    last = exports.finish(out, *options, is_traced=num_early > 0)
    assert_finished(out, expected)
    assert GOING_ON in last.said
    num_weights = len(expected.weights)
    assert f"writing weights, {len(there)} of {num_weights} already there (" in last.said
    assert last.computed == expected.weights[len(there) :]
