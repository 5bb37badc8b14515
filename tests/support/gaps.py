"""Measures for how long other threads are kept from running."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


@contextlib.contextmanager
def thread_gaps() -> Iterator[list[float]]:
    """Seconds between the turns of a thread that wants one each millisecond."""
    gaps: list[float] = [0.0]
    ended = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not ended.wait(0.001):
            gaps.append(time.perf_counter() - last)
            last += gaps[-1]
        gaps.append(time.perf_counter() - last)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield gaps
    finally:
        ended.set()
        thread.join()
