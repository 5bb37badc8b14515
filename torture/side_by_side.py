"""Cases that run side by side, counted in the order of their numbers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from ..console.progress import say
from .outcomes import Outcome, Record

Tool = TypeVar("Tool")
_AHEAD = 4  # cases that are begun for each tool before the first of them is counted
_SAVE_EVERY_S = 10.0


def count(
    record: Record,
    part: str,
    *,
    most: int,
    tools: Sequence[Tool],
    run: Callable[[int, Tool], Iterable[Outcome]],
) -> None:
    """Run cases from the first that was not counted, until there are enough.

    An interrupted run loses the cases that were not counted; the next one runs them again.

    Args:
        record: counts, and keeps the number of the next case and the time that they took.
        part: of the record, such as kills.
        most: cases of the part, those of earlier runs included.
        tools: what a case has for itself, such as a process; so many cases run at once.
        run: a case, by its number; it may give several outcomes, or none.
    """
    free: SimpleQueue[Tool] = SimpleQueue()
    for tool in tools:
        free.put(tool)

    def one(number: int) -> list[Outcome]:
        tool = free.get()
        try:
            return list(run(number, tool))
        finally:
            free.put(tool)

    begun = saved = time.monotonic()
    waiting: deque[tuple[int, Future[list[Outcome]]]] = deque()
    number = record.next.get(part, 0)
    pool = ThreadPoolExecutor(len(tools))
    try:
        while True:
            while record.total(part) + len(waiting) < most and len(waiting) < _AHEAD * len(tools):
                waiting.append((number, pool.submit(one, number)))
                number += 1
            if not waiting:
                return
            first, found = waiting.popleft()
            for outcome in found.result():
                record.add(part, outcome)
            record.next[part] = first + 1
            now = time.monotonic()
            if now - saved > _SAVE_EVERY_S:
                say(f"{part}: {record.total(part)} of {most} done")
                record.took(part, now - begun)
                record.save()
                begun = saved = now
    finally:
        record.took(part, time.monotonic() - begun)
        pool.shutdown(cancel_futures=True)
