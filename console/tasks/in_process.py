"""Runs tasks in threads of this process, as many as the processor and the memory allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import psutil

from ...runtime.ort import ort_session
from ..progress import track

Job = TypeVar("Job")
Result = TypeVar("Result")


class InProcess:
    """The scheduler where none is asked for."""

    about = "this process"
    is_here = True

    def run(
        self,
        task: Callable[[Job], Result],
        jobs: Sequence[Job],
        label: str,
        *,
        task_bytes: int | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """As ``Scheduler.run``."""
        if task_bytes is None:
            for number, job in enumerate(track(jobs, label)):
                yield number, task(job)
            return
        with ThreadPoolExecutor(_at_once(task_bytes)) as pool:
            futures = {pool.submit(task, job): number for number, job in enumerate(jobs)}
            done = as_completed(futures)
            try:
                for _ in track(range(len(jobs)), label):
                    future = next(done)
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _at_once(task_bytes: int) -> int:
    """Tasks that compute together, with one thread each."""
    room: int = psutil.virtual_memory().available // max(task_bytes, 1)
    return max(1, min(ort_session.physical_cores(), room))
