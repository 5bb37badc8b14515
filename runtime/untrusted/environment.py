"""Reads environment variables as the types that are expected of them; errors name the variable."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ConfigError
from .fields import shown


def is_set(name: str) -> bool:
    """Whether a variable is set; an empty one is."""
    return name in os.environ


def one_of(name: str, known: Sequence[str]) -> str:
    """A variable with one of some values; empty where it is not set.

    Raises:
        ConfigError: it has another value.
    """
    found = os.environ.get(name, "")
    if found and found not in known:
        raise _refusal(name, found, f"{' or '.join(known)}, or none")
    return found


def words(name: str, form: str, *, what: str) -> list[str]:
    """The words of a variable, which spaces separate.

    Args:
        name: of the variable.
        form: the regular expression of one word.
        what: what the words are, for the message.

    Raises:
        ConfigError: a word has another form.
    """
    found = os.environ.get(name, "")
    for word in found.split():
        if not re.fullmatch(form, word):
            raise _refusal(name, word, what)
    return found.split()


def folder(name: str) -> Path | None:
    """A variable that names a folder; None where it is not set.

    Raises:
        ConfigError: it is no absolute path.
    """
    found = os.environ.get(name, "")
    if found and not Path(found).is_absolute():
        raise _refusal(name, found, "the absolute path of a folder")
    return Path(found) if found else None


def command(name: str) -> list[str]:
    """A variable that holds a command, as a shell splits it; empty where it is not set.

    Raises:
        ConfigError: a quotation in it does not end, or it is no text.
    """
    found, expected = os.environ.get(name, ""), "a command as a shell reads it"
    try:
        split = shlex.split(found)
    except ValueError as error:
        raise _refusal(name, found, expected, said=str(error)) from error
    if not found.isprintable():
        raise _refusal(name, found, f"{expected}, on one line")
    return split


@contextlib.contextmanager
def changed(name: str, value: str) -> Iterator[None]:
    """Set a variable as long as the block lasts, for what it starts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _refusal(name: str, found: str, expected: str, *, said: str = "") -> ConfigError:
    why = f"{said}, " if said else ""
    return ConfigError(f"{name}={shown(found)}: {why}expected {expected}; unset {name}")
