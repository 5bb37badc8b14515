"""Runs the trials of faults in several processes, each on one core.

The gate feeds a small model mostly token by token, where threads wait for each other: a process
with one thread on each core tries more faults in the same time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import SimpleQueue

from .catalogue import FAULTS
from .planting import Fault
from .trial import Outcome, Trial

_MOST_PROCESSES = 4  # each takes about 1 GB
_THREADS = "OMP_NUM_THREADS"  # numpy's and torch's, read when they are imported


def run_trials(faults: Sequence[Fault], trial: Trial) -> Iterator[Outcome]:
    """Try each fault; outcomes come in the order of the faults.

    Args:
        faults: those of the catalogue run in several processes; any others run in this one.
        trial: the model and the folder.
    """
    recipes = list(dict.fromkeys(fault.recipe for fault in faults))
    cores = _cores()[: min(len(faults), _MOST_PROCESSES)]
    numbers = [FAULTS.index(fault) for fault in faults if fault in FAULTS]
    if len(cores) < 2 or len(numbers) < len(faults):
        for recipe in recipes:
            trial.export(recipe)
        for fault in faults:
            yield trial.run(fault)
        return
    with _processes(cores) as pool:
        list(pool.map(trial.export, recipes))
        # A fault holds a function, which cannot be sent to a process; its number can.
        found = pool.map(_run, [trial] * len(numbers), numbers)
        for fault, (broken, place, cause) in zip(faults, found, strict=True):
            yield Outcome(fault=fault, broken=broken, place=place, cause=cause)


@contextlib.contextmanager
def _processes(cores: Sequence[int]) -> Iterator[ProcessPoolExecutor]:
    """A process for each core; they start when work is given to them."""
    context = multiprocessing.get_context("spawn")
    free: SimpleQueue[int] = context.SimpleQueue()
    for core in cores:
        free.put(core)
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    pool = ProcessPoolExecutor(len(cores), context, initializer=_begin, initargs=(free,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


def _begin(free: SimpleQueue[int]) -> None:
    """Take a core, on which onnxruntime computes with one thread.

    The main process shows the progress, and handles Ctrl-C.
    """
    os.sched_setaffinity(0, {free.get()})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends


def _run(trial: Trial, number: int) -> tuple[tuple[str, ...], str, str]:
    """Kinds of checks that failed, the place and the cause."""
    outcome = trial.run(FAULTS[number])
    return outcome.broken, outcome.place, outcome.cause


def _cores() -> list[int]:
    """Cores that this process may use; none where a process cannot be given one."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
