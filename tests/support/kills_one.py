"""A scheduler of which one worker is killed while it computes a task."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tramontane.console.tasks.on_dask import OnDask


class KillsOne:
    """Three workers; one is killed, by SIGKILL, as soon as it computes and ``when`` is true."""

    is_here = False

    def __init__(self, inner: OnDask, *, when: Callable[[], bool] = lambda: True) -> None:
        self.about, self.inner, self.when, self.killed = inner.about, inner, when, 0

    def run(self, task: Any, jobs: Sequence[Any], label: str, **given: Any) -> Iterator[Any]:
        pids: dict[str, int] = self.inner._client.run(os.getpid)
        assert len(set(pids.values())) == 3

        def kill() -> None:
            while not self.killed:
                for worker, tasks in self.inner._client.processing().items():
                    if tasks and self.when():
                        self.killed = pids[worker]
                        os.kill(self.killed, signal.SIGKILL)
                        return
                time.sleep(0.01)

        thread = threading.Thread(target=kill)
        thread.start()
        yield from self.inner.run(task, jobs, label, **given)
        thread.join()
