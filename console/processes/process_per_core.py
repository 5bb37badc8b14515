"""A pool of processes, each on one core of its own.

Threads that compute a small model wait for each other most of the time. One process with one
thread on each core does more in the same time.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import SimpleQueue
from types import FrameType
from typing import TypeVar

from ...runtime.untrusted import environment
from .end_with_parent import end_with_parent

Result = TypeVar("Result")

MAX_PROCESSES = 4  # each imports PyTorch anew, which takes memory
_THREADS = "OMP_NUM_THREADS"  # numpy's and torch's, read when they are imported


def usable_cores() -> list[int]:
    """Cores that this process may use; empty where the system cannot pin processes to cores."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


@contextlib.contextmanager
def on_all_cores() -> Iterator[None]:
    """Let what a process of a pool starts meanwhile use all cores, such as a browser's threads."""
    if not _Worker.all_cores:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _Worker.all_cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


class Pool:
    """Processes that take calls; results come in the order of the calls."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def map(
        self, function: Callable[..., Result], *arguments: Iterable[object]
    ) -> Iterator[Result]:
        """Call a function of a module on each set of arguments, all of which can be pickled."""
        return self._executor.map(functools.partial(_Worker.call, function), *arguments)


def cores_for(calls: int) -> list[int]:
    """Cores for as many calls; empty where one process is as good as several."""
    cores = usable_cores()[: min(calls, MAX_PROCESSES)]
    return cores if len(cores) > 1 else []


@contextlib.contextmanager
def process_per_core(cores: Sequence[int], *, is_quiet: bool = False) -> Iterator[Pool]:
    """Start a process for each core, when work is given to it.

    An interrupt of this process ends the calls that run: in each, ``KeyboardInterrupt`` is raised.

    Args:
        cores: numbers of cores, one for each process.
        is_quiet: whether the processes' standard error is dropped.
    """
    context = multiprocessing.get_context("spawn")
    free: SimpleQueue[int] = context.SimpleQueue()
    for core in cores:
        free.put(core)
    with environment.changed(_THREADS, "1"):
        executor = ProcessPoolExecutor(len(cores), context, _Worker.begin, (free, is_quiet))
        others = set(multiprocessing.active_children())
        try:
            yield Pool(executor)
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()  # see ``_Worker.begin``
            raise
        finally:
            executor.shutdown(cancel_futures=True)


class _Worker:
    """What one process of the pool does."""

    is_ending = False
    all_cores: frozenset[int] = (
        frozenset()
    )  # in a worker: the main process's; in the main process: empty

    @classmethod
    def begin(cls, free: SimpleQueue[int], is_quiet: bool) -> None:
        """Take a core. The main process alone handles Ctrl-C, and then terminates this one."""
        if (parent := multiprocessing.parent_process()) is not None:
            end_with_parent(parent.pid or 0)
        cls.all_cores = frozenset(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {free.get()})
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, cls._interrupt)
        if is_quiet:
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until it ends

    @classmethod
    def call(cls, function: Callable[..., Result], *arguments: object) -> Result:
        if cls.is_ending:
            raise KeyboardInterrupt
        return function(*arguments)

    @classmethod
    def _interrupt(cls, _number: int, _frame: FrameType | None) -> None:
        if not cls.is_ending:
            cls.is_ending = True
            raise KeyboardInterrupt
