"""What runs independent tasks, and what ``--scheduler`` names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from ...runtime.errors import ConfigError
from .in_process import InProcess

Job = TypeVar("Job")
Result = TypeVar("Result")

_LOCAL = re.compile(r"local:([1-9][0-9]{0,3})")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://\S+")


class Scheduler(Protocol):
    """Runs tasks whose results do not depend on where and in which order they run."""

    about: str  # for people: where tasks run
    is_here: bool  # whether tasks run in this process

    def run(
        self,
        task: Callable[[Job], Result],
        jobs: Sequence[Job],
        label: str,
        *,
        task_bytes: int | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Yield the number of each job and its result, in the order in which they are done.

        Args:
            task: a function of a module of ours.
            jobs: what can be pickled; those that take longest first.
            label: what progress calls the work.
            task_bytes: memory that a task takes where it uses one thread alone, so that this
                process can run several together; None: it uses all threads. A scheduler's
                workers run as many as they were started for.

        Raises:
            TramontaneError: the first that a task raised; no further ones are begun.
        """
        ...


@contextlib.contextmanager
def open_scheduler(name: str | None) -> Iterator[Scheduler]:
    """What the value of ``--scheduler`` names; None: this process.

    Raises:
        ConfigError: it is neither ``local:N`` nor an address, or nothing answers there.
        ContractError: the package distributed is not installed.
    """
    if name is None:
        yield InProcess()
        return
    local = _LOCAL.fullmatch(name)
    if local is None and not (_ADDRESS.fullmatch(name) and _has_port(name)):
        raise ConfigError(
            f"--scheduler {name}: expected tcp://HOST:PORT of a Dask scheduler, or local:N for N "
            "processes of this machine; leave it out to use this process alone"
        )
    from .on_dask import connected, local_processes

    with local_processes(int(local[1])) if local is not None else connected(name) as scheduler:
        yield scheduler


def _has_port(address: str) -> bool:
    """Whether an address has a host and a port that can be connected to."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname and parts.port)
    except ValueError:  # beyond 65535, no number, or half of a bracket
        return False
