"""A limit on the time that one run of a graph takes: one step, or one chunk of a prompt."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ContractError
from ..ort import stopping
from ..ort.ort_session import run_options


def limited(graph: Any, *, seconds: float | None, artifact: Path) -> Any:
    """A graph with a limit on each run; None: the graph itself. As ``LimitedGraph``."""
    if seconds is None:
        return graph
    return LimitedGraph(graph, seconds=seconds, artifact=artifact)


class LimitedGraph:
    """A graph whose runs are stopped between two of its nodes when they take too long."""

    def __init__(self, graph: Any, *, seconds: float, artifact: Path) -> None:
        """Limit the runs of a graph.

        Args:
            graph: an ``InferenceSession``.
            seconds: that each run may take.
            artifact: for messages.

        Raises:
            ContractError: no time at all.
        """
        if not 0 < seconds <= threading.TIMEOUT_MAX:
            raise ContractError(
                f"time_limit is {seconds}; expected more than 0 seconds, at most "
                f"{threading.TIMEOUT_MAX:.0f}"
            )
        self._graph = graph
        self._seconds = seconds
        self._artifact = artifact

    def io_binding(self) -> Any:
        """As ``InferenceSession.io_binding``."""
        return self._graph.io_binding()

    def run_with_iobinding(self, binding: Any, _: Any = None) -> None:
        """Run it on what is bound, with options of its own.

        Raises:
            ContractError: it took too long and was stopped.
        """
        with stopping_after(self._seconds) as (options, is_late):
            try:
                self._graph.run_with_iobinding(binding, options)
            except Exception as error:
                if not is_late.is_set():
                    raise
                raise ContractError(
                    f"{self._artifact}: a run of the graph took longer than {self._seconds:g} s, "
                    "the time_limit, and was stopped; call reset(), or start a new "
                    "generate_batch(), and give the text again in smaller chunks or with more time"
                ) from error


@contextlib.contextmanager
def stopping_after(seconds: float) -> Iterator[tuple[Any, threading.Event]]:
    """Options for runs of a graph, which are stopped between two nodes when the time is over.

    Yields:
        The ``RunOptions``, and an event that is set once the time is over.
    """
    options, is_late = run_options(), threading.Event()

    def stop() -> None:
        is_late.set()
        options.terminate = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    stopping.add(options)
    timer.start()
    try:
        yield options, is_late
    finally:
        timer.cancel()
        stopping.remove(options)
