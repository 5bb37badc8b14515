"""A tokenizer as one program reads it, and how two of them differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one program makes of a tokenizer's files."""

    file: str  # its name
    program: str
    # Text to token ids without start and end tokens; text that spells a special token becomes it.
    # None: the two kinds of file differ here by design.
    encode: Callable[[str], list[int] | None]
    decode: Callable[[Sequence[int]], str]  # special tokens add no text
    piece: Callable[[int], str | None]  # a token as the file spells it
    start: list[int] | None  # tokens in front of a prompt; None: the file does not say it
    end: list[int] | None = None  # tokens behind a prompt; None: not compared

    @property
    def name(self) -> str:
        """The file, and the program that reads it."""
        return name_of(self.file, self.program)


def name_of(file: str, program: str) -> str:
    """Name of a file as a program reads it."""
    return f"{file}, as {program} reads it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One string or token that two readings treat differently."""

    what: str
    found: object
    expected: object

    def __str__(self) -> str:
        return f"{self.what}: found {_shown(self.found)}, expected {_shown(self.expected)}"


def differences(
    found: Reading, expected: Reading, texts: Iterable[str], *, size: int
) -> Iterator[Difference]:
    """Compare what is put around a prompt, the spelling of each token, and each string.

    Args:
        found, expected: what is compared.
        texts: strings to encode; their tokens are compared, and decoded.
        size: tokens of the vocabulary.
    """
    for where, put, wanted_there in (
        ("in front of", found.start, expected.start),
        ("behind", found.end, expected.end),
    ):
        if None not in (put, wanted_there) and put != wanted_there:
            yield Difference(what=f"tokens {where} a prompt", found=put, expected=wanted_there)
    for token in range(size):
        own, theirs = found.piece(token), expected.piece(token)
        if own and theirs and own != theirs:
            yield Difference(what=f"token {token}", found=own, expected=theirs)
    for text in texts:
        wanted = _ids(expected, text)
        ids = None if wanted is None else _ids(found, text)
        if wanted is None or ids is None:
            continue
        if ids != wanted:
            yield Difference(what=f"tokens of {text!r}", found=ids, expected=wanted)
        elif isinstance(wanted, list) and found.decode(wanted) != expected.decode(wanted):
            yield Difference(
                what=f"text of {_shown(wanted)}, which {text!r} becomes",
                found=found.decode(wanted),
                expected=expected.decode(wanted),
            )


def _ids(reading: Reading, text: str) -> list[int] | str | None:
    """Token ids of a text, or the message of the error that it leads to."""
    try:
        return reading.encode(text)
    except Exception as error:  # what tokenizers raises on encoding has no type of its own
        return str(error)


def _shown(value: object, most: int = 12) -> str:
    if isinstance(value, list) and len(value) > most:
        return f"{value[:most]} and {len(value) - most} more"
    return repr(value)
