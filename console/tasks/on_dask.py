"""Runs tasks on the workers of a Dask scheduler: one that is there, or processes of this machine.

A worker that dies loses the task that it computes; the scheduler gives that task to another one.
Dask sends functions and data as pickles: anyone who can connect to the scheduler can run code on
its workers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ...runtime.errors import ConfigError, ContractError, TraceError, TramontaneError
from .. import hints
from ..progress import quiet, say, track

Job = TypeVar("Job")
Result = TypeVar("Result")

EXTRA = "distributed"
_CONNECT_S, _WORKERS_S = 10, 30


class OnDask:
    """A connection to a scheduler; ``connected`` and ``local_processes`` make it."""

    is_here = False

    def __init__(self, client: Any, *, about: str) -> None:
        """Run nothing yet."""
        self.about = about
        self._client = client

    def run(
        self,
        task: Callable[[Job], Result],
        jobs: Sequence[Job],
        label: str,
        *,
        task_bytes: int | None = None,  # noqa: ARG002 - its workers are started by others
    ) -> Iterator[tuple[int, Result]]:
        """As ``Scheduler.run``."""
        from distributed import as_completed

        # In order of submission, which is that of ``priority`` too; never known from an earlier
        # run, as pure functions are.
        futures = {
            self._client.submit(_run, task, job, pure=False, priority=-number): number
            for number, job in enumerate(jobs)
        }
        done = as_completed(futures, loop=self._client.loop)
        try:
            for _ in track(range(len(futures)), label):
                future = next(done)
                yield futures[future], _result(future)
        finally:
            self._client.cancel(list(futures))


def _run(task: Callable[[Job], Result], job: Job) -> Result:
    """On a worker: run one task; its own progress is not shown, and errors name the worker."""
    from distributed import get_worker

    try:
        with quiet():
            return task(job)
    except TramontaneError as error:
        raise type(error)(f"worker {get_worker().address}: {error}") from error


def _result(future: Any) -> Any:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise TraceError(
            f"{error.last_worker.address}: the last of several workers that died while they "
            "computed the same task, expected one to finish it; most likely memory is short: "
            "start fewer workers on a machine, then run the same command again"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a worker has no module {error.name}, expected this version of tramontane in its "
            f"environment; on each worker: {hints.install('export')}"
        ) from error


@contextlib.contextmanager
def connected(address: str) -> Iterator[OnDask]:
    """Connect to a scheduler that has workers.

    Raises:
        ConfigError: nothing answers there, or it has no workers.
        ContractError: the package is not installed.
    """
    with _needs_distributed():
        from distributed import Client
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler {address}: no Dask scheduler answers within {_CONNECT_S} s "
            f"({type(error).__name__}), expected one; start it: dask scheduler"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError as error:
            raise ConfigError(
                f"--scheduler {address}: has no workers after {_WORKERS_S} s, expected at least "
                f"one; start it: dask worker {address} --nthreads 1"
            ) from error
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        say(f"--scheduler {address}: {workers} worker{'s' if workers != 1 else ''}")
        yield OnDask(client, about=address)


@contextlib.contextmanager
def local_processes(count: int) -> Iterator[OnDask]:
    """Start worker processes on this machine, and end them with the block.

    Raises:
        ContractError: the package is not installed.
    """
    with _needs_distributed():
        from distributed import Client, LocalCluster
    cluster = LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        memory_limit=None,  # by default each has its share, and is killed when it takes more
        dashboard_address="127.0.0.1:0",  # no port that another one has
        silence_logs=logging.CRITICAL,
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        say(f"--scheduler local:{count}: {count} worker process{'es' if count != 1 else ''}")
        yield OnDask(client, about=f"{count} local processes")


@contextlib.contextmanager
def _needs_distributed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ContractError(
            f"--scheduler needs the package {error.name}, which is not installed; install the "
            f"extra {EXTRA}: {hints.install(EXTRA)}"
        ) from error
