"""Text in and out of a command, whatever the terminal's encoding. (stdlib only)"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator

from ..runtime.errors import ConfigError
from ..runtime.sizes import format_bytes
from ..runtime.untrusted import environment
from .terminal import escape_on_terminals

_HANDLER = "tramontane"
_MOST_BYTES = 16 << 20  # of a prompt, or of a line; the longest prompts that models take have one
# Bytes of a file name that are not text, as characters. Source: PEP 383.
_FIRST_BYTE, _LAST_BYTE = "\udc80", "\udcff"
_STANDARD_ERROR = 2  # its number, the largest of the three


def accept_any_text() -> None:
    """Make standard output and error accept every character, whatever their encoding is.

    A byte of a file name is written as that byte. A character that the encoding lacks is written
    as its escape: U+0394 as a backslash and ``u0394``. A terminal is sent no control characters.
    """
    _replace_closed()
    escape_on_terminals()
    codecs.register_error(_HANDLER, _escape)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # other streams, such as StringIO, take all text
            stream.reconfigure(errors=_HANDLER)


def _replace_closed() -> None:
    """Let nothing be written where standard output or error is closed (``>&-``).

    The next file that is opened would get the number of the closed stream, and what libraries
    print; messages for standard error would go to standard output.
    """
    closed = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
    if sys.stdin is None or closed:
        while (last := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
            pass
        os.close(last)
    for name in closed:
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, to the end


def write_utf8() -> None:
    """Write standard output in UTF-8 whatever the locale says, for text that a model made.

    ``PYTHONIOENCODING``, where it is set, is what the user asks for.
    """
    if hasattr(sys.stdout, "reconfigure") and not environment.is_set("PYTHONIOENCODING"):
        sys.stdout.reconfigure(encoding="utf-8")


def read_standard_input() -> str:
    """All of standard input as text, without the newline that ends it; empty where it is closed.

    At a terminal, a line on standard error says how the text is ended.

    Raises:
        ConfigError: it is not UTF-8, or larger than any prompt.
    """
    if sys.stdin is None or sys.stdin.closed:
        return ""
    if sys.stdin.isatty():
        ends = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D on a line of its own"
        print(f"type a prompt; {ends} ends it", file=sys.stderr, flush=True)
    content = sys.stdin.buffer.read(_MOST_BYTES + 1)
    _refuse_large(content, "standard input")
    try:
        text = content.decode("utf-8-sig")  # PowerShell begins with a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"standard input: byte {content[error.start]:#04x} at offset {error.start} is not "
            "UTF-8, expected text in UTF-8; convert it, e.g. with iconv -f LATIN1 -t UTF-8"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def read_lines() -> Iterator[str]:
    """Lines of standard input as they come, without their ends.

    Raises:
        ConfigError: one is not UTF-8, or larger than any prompt.
    """
    if sys.stdin is None or sys.stdin.closed:
        return
    lines = iter(lambda: sys.stdin.buffer.readline(_MOST_BYTES + 1), b"")
    for number, line in enumerate(lines, start=1):
        _refuse_large(line, f"line {number} of standard input")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"standard input: byte {line[error.start]:#04x} of line {number}, at offset "
                f"{error.start}, is not UTF-8, expected text in UTF-8; convert it, e.g. with "
                "iconv -f LATIN1 -t UTF-8"
            ) from error
        yield text.removesuffix("\n").removesuffix("\r")


def _refuse_large(content: bytes, what: str) -> None:
    if len(content) > _MOST_BYTES:
        raise ConfigError(
            f"{what}: is larger than {format_bytes(_MOST_BYTES)}, expected a prompt; shorten it"
        )


def decode_argument(text: str, *, flag: str) -> str:
    """Text of the command line, whose bytes are UTF-8 even where the locale says otherwise.

    Args:
        text: the argument as Python read it; bytes that the locale lacks are surrogates.
        flag: what an error calls the argument.

    Raises:
        ConfigError: it has a byte that is not UTF-8, or half of a surrogate pair.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError as error:
        where, character = error.start, text[error.start]
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        is_byte = _FIRST_BYTE <= character <= _LAST_BYTE
        code = ord(character) - 0xDC00 if is_byte else ord(character)
        raise ConfigError(
            f"{flag}: {'byte' if is_byte else 'surrogate'} {code:#04x} at character {where} is "
            "not UTF-8, expected text in UTF-8; type it again, or check the terminal's encoding "
            "(LC_ALL=C.UTF-8)"
        ) from None


def _escape(error: UnicodeError) -> tuple[bytes, int]:
    """What is written in place of characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    written = b""
    for character in error.object[error.start : error.end]:
        if _FIRST_BYTE <= character <= _LAST_BYTE:
            written += character.encode("ascii", "surrogateescape")
        else:
            written += character.encode("ascii", "backslashreplace")
    return written, error.end
