"""Stops runs of graphs from another thread, each between two of its nodes.

Python calls handlers of signals between its own instructions alone: Ctrl-C waits for a run to end.
"""

from __future__ import annotations

from typing import Any

_OPTIONS: set[Any] = set()  # RunOptions of onnxruntime, of runs that are or may be in flight


def add(options: Any) -> None:
    """Let runs with these options be stopped."""
    _OPTIONS.add(options)


def remove(options: Any) -> None:
    """Forget options with which nothing runs any more."""
    _OPTIONS.discard(options)


def set_stopped(is_stopped: bool) -> None:
    """Stop the runs in flight and all later ones, or let later ones run again."""
    for options in tuple(_OPTIONS):
        options.terminate = is_stopped
