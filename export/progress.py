"""How does long work show how far it is? A bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

Item = TypeVar("Item")


def track(items: Sequence[Item], label: str) -> Iterable[Item]:
    """Hand the items on, one after the other, while standard error tells how many are done."""
    if sys.stderr.isatty():
        return rich_track(items, description=label, console=Console(stderr=True), transient=True)
    print(f"{label} ({len(items)})", file=sys.stderr, flush=True)
    return items


def say(line: str) -> None:
    """Write a line to standard error; nothing for an empty one."""
    if line:
        print(line, file=sys.stderr, flush=True)
