"""Text in and out of a command, whatever the terminal's encoding. (stdlib only)"""

from __future__ import annotations

import codecs
import os
import sys

from ..runtime.errors import ConfigError
from .terminal import escape_on_terminals

_HANDLER = "tramontane"
# Bytes of a file name that are not text, as characters. Source: PEP 383.
_FIRST_BYTE, _LAST_BYTE = "\udc80", "\udcff"


def accept_any_text() -> None:
    """Make standard output and error accept every character, whatever their encoding is.

    A byte of a file name is written as that byte. A character that the encoding lacks is written
    as its escape: U+0394 as a backslash and ``u0394``. A terminal is sent no control characters.
    """
    escape_on_terminals()
    codecs.register_error(_HANDLER, _escape)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # other streams, such as StringIO, take all text
            stream.reconfigure(errors=_HANDLER)


def write_utf8() -> None:
    """Write standard output in UTF-8 whatever the locale says, for text that a model made.

    ``PYTHONIOENCODING``, where it is set, is what the user asks for.
    """
    if hasattr(sys.stdout, "reconfigure") and "PYTHONIOENCODING" not in os.environ:
        sys.stdout.reconfigure(encoding="utf-8")


def read_standard_input() -> str:
    """All of standard input as text, without the newline that ends it.

    It is empty where standard input is a terminal or closed.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ""
    content = sys.stdin.buffer.read()
    try:
        text = content.decode("utf-8-sig")  # PowerShell begins with a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"standard input: byte {content[error.start]:#04x} at offset {error.start} is not "
            "UTF-8, expected text in UTF-8; convert it, e.g. with iconv -f LATIN1 -t UTF-8"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


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
