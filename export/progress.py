"""How does long work show how far it is? A bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

Item = TypeVar("Item")

_SECONDS = 10  # between two lines


def track(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Hand the items on, one after the other, while standard error tells how many are done.

    Work that is done within an item is part of it, and shows nothing of its own.
    """
    if _Shown.is_busy:
        yield from items
        return
    _Shown.is_busy = True
    try:
        if sys.stderr.isatty():
            console = Console(stderr=True)
            yield from rich_track(items, description=label, console=console, transient=True)
        else:
            yield from _in_lines(items, label)
    finally:
        _Shown.is_busy = False


def _in_lines(items: Sequence[Item], label: str) -> Iterator[Item]:
    """One line to begin with, and one more whenever some time has passed."""
    say(f"{label} ({len(items)})")
    told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told > _SECONDS:
            say(f"{label}: {done} of {len(items)} done")
            told = time.monotonic()
        yield item


class _Shown:
    """Whether a bar is on the terminal: there is room for one."""

    is_busy = False


def say(line: str) -> None:
    """Write a line to standard error; nothing for an empty one."""
    if line:
        print(line, file=sys.stderr, flush=True)
