"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.progress import track as rich_track

from . import hints
from .rich_console import rich_console
from .terminal import escaped

Item = TypeVar("Item")

_SECONDS = 10  # between two lines


def track(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yield the items, and show on standard error how many are done.

    Work within an item is part of it, and shows no progress of its own.
    """
    if _Shown.is_busy:
        yield from items
        return
    _Shown.is_busy = True
    try:
        if sys.stderr.isatty():
            console = rich_console(is_error=True)
            yield from rich_track(items, description=label, console=console, transient=True)
        else:
            yield from _in_lines(items, label)
    finally:
        _Shown.is_busy = False


def _in_lines(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Print one line at first, and another whenever some time has passed."""
    say(f"{label} ({len(items)})" if len(items) > 1 else label)
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > _SECONDS:
            say(f"{label}: {done} of {len(items)} done")
            last = time.monotonic()
        yield item


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show nothing in the block: neither progress nor lines."""
    before = _Shown.is_busy, _Shown.is_quiet
    _Shown.is_busy = _Shown.is_quiet = True
    try:
        yield
    finally:
        _Shown.is_busy, _Shown.is_quiet = before


class _Shown:
    """Whether a bar is shown; only one is at a time."""

    is_busy = False
    is_quiet = False


def say(line: str) -> None:
    """Write a line to standard error, with make's names for its flags where make calls.

    An empty line is not written.
    """
    if line and not _Shown.is_quiet:
        note = hints.names_in_make(line)
        whole = f"{line} ({note})" if note else line
        # While a bar is shown, rich stands in for standard error, and reads colors from texts.
        print(escaped(whole) if sys.stderr.isatty() else whole, file=sys.stderr, flush=True)
