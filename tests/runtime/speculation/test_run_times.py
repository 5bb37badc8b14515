"""Times of runs, relative to steps, as they are measured."""

from __future__ import annotations

import pytest
from tramontane.runtime.speculation.run_times import RunTimes


def test_runs_that_were_not_measured_are_judged_by_the_nearest_that_was() -> None:
    times = RunTimes()
    times.note_step(2.0)
    assert times.steps(16) > 4  # unknown: not before fewer drafts have shown what they cost
    assert times.note_run(2, 3.0) == 1.5
    assert times.steps(1) == 1.25
    assert times.steps(4) == 2.0
    times.note_run(16, 10.0)
    assert times.steps(16) == 5.0
    assert times.steps(8) == pytest.approx(3.0, rel=0.02)  # of 2, which counts a little less now


def test_one_hiccup_of_the_machine_does_not_rule_drafts_out() -> None:
    times = RunTimes()
    times.note_step(1.0)
    times.note_step(1000.0)
    assert times.step_seconds is not None
    assert times.step_seconds < 1.5
    times = RunTimes()
    times.note_step(1.0)
    times.note_run(4, 2.0)
    times.note_run(4, 1000.0)
    assert times.steps(4) < 4


def test_estimates_that_are_not_measured_again_shrink() -> None:
    times = RunTimes()
    times.note_step(1.0)
    times.note_run(4, 9.0)
    for _ in range(1000):
        times.shrink()
    assert times.steps(4) == pytest.approx(1 + 8 * 0.998**1000)


def test_a_run_that_became_faster_is_found_by_those_of_another_length() -> None:
    times = RunTimes()
    times.note_step(1.0)
    times.note_run(2, 7.0)
    for _ in range(200):
        times.note_run(1, 1.1)
    assert times.steps(2) < 1.2


def test_the_first_slow_steps_of_a_session_do_not_count_for_long() -> None:
    times = RunTimes()
    for seconds in (3.0, *[1.0] * 8):
        times.note_step(seconds)
    assert times.step_seconds is not None
    assert times.step_seconds < 1.25


def test_a_first_run_counts_as_much_as_a_draft_of_three_steps_at_most() -> None:
    times = RunTimes()
    times.note_step(1.0)
    assert times.note_run(4, 1000.0) == 15.0
