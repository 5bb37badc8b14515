"""Tests of the pool of processes: each has a core, results keep their order, an interrupt ends calls."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tramontane.console.processes.process_per_core import (
    on_all_cores,
    process_per_core,
    usable_cores,
)

pytestmark = pytest.mark.skipif(not usable_cores(), reason="processes cannot be given a core here")


def core_and_threads(number: int) -> tuple[int, set[int], str]:
    return number, os.sched_getaffinity(0), os.environ["OMP_NUM_THREADS"]


def cores_of_a_child(_number: int) -> tuple[str, set[int]]:
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    with on_all_cores():
        child = subprocess.check_output([sys.executable, "-c", code], text=True)
    return child.strip(), os.sched_getaffinity(0)


def wait_long(marker: Path) -> None:
    marker.touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        marker.with_suffix(".ended").touch()
        raise


def write_to_stderr(number: int) -> int:
    print("noise", file=sys.stderr, flush=True)
    return number


def test_each_process_computes_on_its_core_with_one_thread_and_results_keep_their_order() -> None:
    core = usable_cores()[0]
    before = os.environ.get("OMP_NUM_THREADS")
    with process_per_core([core]) as pool:
        found = list(pool.map(core_and_threads, range(5)))
    assert found == [(number, {core}, "1") for number in range(5)]
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_what_needs_all_cores_gets_them_for_a_while() -> None:
    core = usable_cores()[-1]
    with process_per_core([core]) as pool:
        assert list(pool.map(cores_of_a_child, [0])) == [(str(usable_cores()), {core})]


def test_quiet_processes_write_nothing_to_standard_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with process_per_core(usable_cores()[:1], is_quiet=True) as pool:
        assert list(pool.map(write_to_stderr, [3])) == [3]
    assert capfd.readouterr().err == ""


def test_an_interrupt_ends_calls_that_run_and_starts_no_others(tmp_path: Path) -> None:
    markers = [tmp_path / str(number) for number in range(3)]
    start = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        process_per_core(usable_cores()[:1]) as pool,
    ):
        pool.map(wait_long, markers)
        while not markers[0].exists():
            time.sleep(0.01)
            assert time.monotonic() - start < 30
        raise KeyboardInterrupt
    assert time.monotonic() - start < 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "0.ended"]
