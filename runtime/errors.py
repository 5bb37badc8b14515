"""The six types of errors that tramontane raises.

Each message reads *where: what was found, what was expected; what to do*. Whatever it quotes of a
file, it has no control characters and at most ``LONGEST`` characters.
"""

from __future__ import annotations

LONGEST = 2000  # characters of a message
_END = 600  # of them after what is left out, so that the advice stays
# Bytes of a file name that are not text, as characters: written as the bytes. Source: PEP 383.
_FIRST_BYTE, _LAST_BYTE = "\udc80", "\udcff"


class TramontaneError(Exception):
    """Something given to tramontane cannot be used; the message says what to change."""

    _line_breaks = ""  # characters that a message may have though they are not printable

    def __init__(self, message: str = "") -> None:
        """Keep the message, as ``printable`` has it."""
        super().__init__(printable(message, keep=self._line_breaks))


class ConfigError(TramontaneError):
    """The architecture or an option is missing, malformed or not supported."""


class CheckpointError(TramontaneError):
    """A weight is missing, misshapen, unreadable or not a number."""


class TraceError(TramontaneError):
    """The model cannot be run or traced with these inputs."""


class GraphError(TramontaneError):
    """A graph breaks a rule that all our graphs keep, or cannot be made as asked."""


class ContractError(TramontaneError):
    """An artifact is not what it should be or cannot be written, or the driver refuses a call."""


class ParityError(TramontaneError):
    """An artifact and its reference disagree by more than the tolerance; a line for each check."""

    _line_breaks = "\n"


def printable(text: str, *, most: int = LONGEST, keep: str = "") -> str:
    r"""A text whose control characters are escaped, and whose middle is left out if it is long.

    Args:
        text: what may quote a file.
        most: characters of the result.
        keep: characters that stay, though they are not printable.

    >>> printable("a\nb\x1b[31m"), printable("x" * 99, most=13)
    ('a\\nb\\x1b[31m', 'xxxxx ... xxx')
    """
    text = _shortened(text, most)  # before the escapes, which take time; and after, as they add
    if text.isprintable():
        return text
    escaped = "".join(
        sign
        if sign.isprintable() or sign in keep or _FIRST_BYTE <= sign <= _LAST_BYTE
        else sign.encode("unicode_escape").decode()
        for sign in text
    )
    return _shortened(escaped, most)


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = min(_END, most // 4)
    return f"{text[: most - end - 5]} ... {text[len(text) - end :]}"
