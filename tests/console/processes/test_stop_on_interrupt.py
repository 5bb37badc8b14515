"""Ctrl-C ends a run of a graph that would never end, and later runs run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import parser
from tramontane.console.processes.stop_on_interrupt import interrupts_stop_runs
from tramontane.runtime.ort import stopping
from tramontane.runtime.ort.ort_session import ort, run_bound
from tramontane.runtime.sequences.time_limit import LimitedGraph

LOOP = """<ir_version: 10, opset_import: ["":23]> looping (int64 count, int64 x) => (int64 y) {
yes = Constant<value = bool {1}>() y = Loop(count, yes, x) <body = b (int64 i, bool c, int64 v)
=> (bool d, int64 w) { d = Identity(c) one = Constant<value = int64 {1}>() w = Add(v, one) }> }"""
ENDLESS = 2**62
ARTIFACT = Path("artifact")


class Runs:
    """A graph that counts, and what is bound to it."""

    def __init__(self) -> None:
        self.graph: Any = ort.InferenceSession(parser.parse_model(LOOP).SerializeToString())

    def count(self, most: int, *, graph: Any = None) -> int:
        binding = self.graph.io_binding()
        counted = np.zeros((), np.int64)
        binding.bind_cpu_input("count", np.array(most, np.int64))
        binding.bind_cpu_input("x", np.array(0, np.int64))
        binding.bind_output("y", "cpu", 0, np.int64, (), counted.ctypes.data)
        run_bound(graph or self.graph, binding, artifact=ARTIFACT, num_tokens=1)
        return int(counted)


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Interrupts raise KeyboardInterrupt; a run that nothing ends is ended after 20 seconds."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    last = threading.Timer(20, lambda: stopping.set_stopped(True))
    last.daemon = True
    last.start()
    yield
    last.cancel()
    stopping.set_stopped(False)
    signal.signal(signal.SIGINT, before)


def interrupt(*, after_seconds: float) -> None:
    threading.Timer(after_seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


@pytest.mark.parametrize("is_limited", [False, True])
def test_an_interrupt_ends_a_run_and_later_ones_run(runs: Runs, is_limited: bool) -> None:
    graph = LimitedGraph(runs.graph, seconds=60, artifact=ARTIFACT) if is_limited else runs.graph
    start = time.monotonic()
    interrupt(after_seconds=0.1)
    with pytest.raises(KeyboardInterrupt), interrupts_stop_runs():
        runs.count(ENDLESS, graph=graph)
    assert time.monotonic() - start < 10
    assert runs.count(9, graph=graph) == 9


def test_an_interrupt_that_is_not_the_last_lets_the_run_go_on(runs: Runs) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    start = time.monotonic()
    for seconds in (0.1, 0.5):
        interrupt(after_seconds=seconds)
    with pytest.raises(KeyboardInterrupt), interrupts_stop_runs(after=2):
        runs.count(ENDLESS)
    assert 0.4 < time.monotonic() - start < 10
    assert seen  # Python may call a handler once for both


def test_an_inner_block_stands_in_for_an_outer_one_and_gives_back(runs: Runs) -> None:
    with interrupts_stop_runs():
        with interrupts_stop_runs():
            assert runs.count(3) == 3
        interrupt(after_seconds=0.1)
        with pytest.raises(KeyboardInterrupt):
            runs.count(ENDLESS)


def test_in_another_thread_the_block_just_runs(runs: Runs) -> None:
    counted: list[int] = []

    def block() -> None:
        with interrupts_stop_runs():
            counted.append(runs.count(5))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert counted == [5]
    assert signal.set_wakeup_fd(-1) == -1
