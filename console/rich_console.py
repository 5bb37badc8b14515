"""Makes rich's consoles for tables and bars: without markup, without control characters.

A cell may hold a name of somebody else's graph. In markup, ``[/x]`` would be an error and
``[link=...]`` a link.
"""

from __future__ import annotations

import sys

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from .terminal import EscapedStream, escaped


def rich_console(*, width: int | None = None, is_error: bool = False) -> Console:
    """A console on standard output, or error.

    Args:
        width: columns; None for the terminal's.
        is_error: whether it writes to standard error.
    """
    stream = sys.stderr if is_error else sys.stdout
    raw = stream.raw if isinstance(stream, EscapedStream) else stream
    console = Console(file=raw, width=width, markup=False, emoji=False)
    if console.is_terminal:  # its own colors and moves of the cursor go beside what it escapes
        console.push_render_hook(_Escape())
    return console


class _Escape(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(each) for each in renderables]


class _Escaped:
    """What a renderable prints, without the control characters of its texts."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for each in console.render(self._inner, options):
            yield each if each.control else Segment(escaped(each.text), each.style)
