"""Escapes control characters in what a terminal is sent. (stdlib only)

Texts of files, and those that a model makes, may hold sequences that a terminal obeys: they move
its cursor, set its title, or hide what was printed. Where a stream is no terminal, such as a file
or a pipe, every character is written as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

# C0 without tab and line feed, DEL, C1, the same as bytes of file names, and the characters that
# change the direction of text. Source: ECMA-48, 5; Unicode UAX #9, 2.
_OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\udc80-\udc9f]",
)


def escaped(text: str) -> str:
    r"""A text without the characters that a terminal obeys; tab and line feed stay.

    >>> escaped("a\tb\x1b[31m\n")
    'a\tb\\x1b[31m\n'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class EscapedStream:
    """A text stream to a terminal, which is sent no control characters."""

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write a text without what a terminal obeys; return how long it was."""
        self.raw.write(escaped(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts, one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def escape_on_terminals() -> None:
    """Escape what is written to standard output and error, each where it is a terminal."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, EscapedStream) and stream.isatty():
            setattr(sys, name, EscapedStream(stream))
