"""Reads typed fields of a checkpoint's metadata: JSON files and GGUF keys."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...runtime.errors import ConfigError
from ...runtime.untrusted.fields import shown
from ...runtime.untrusted.files import read_file
from ...runtime.untrusted.json_text import SMALL_BYTES, parse_object
from .held_files import HeldFile

_LARGEST = {int: 2**63 - 1, float: sys.float_info.max}  # graphs have sizes of 64 bits
_PLURALS = {str: "texts", int: "whole numbers", float: "numbers"}
_DEMANDED = {int: "whole, below 2**63", float: "finite"}

_REMEDY = "download it again"


def read_json_object(path: Path | HeldFile) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ConfigError: it is not JSON, or JSON of another kind; it is no regular file or a large one.
    """
    if isinstance(path, HeldFile):
        content = path.read_bytes(most=SMALL_BYTES)
    else:
        content = read_file(path, most=SMALL_BYTES, error=ConfigError, remedy=_REMEDY)
    return parse_object(content, what=path, error=ConfigError, remedy=_REMEDY)


def number(
    published: Mapping[str, Any],
    name: str,
    kind: type[int] | type[float],
    default: float | None = None,
) -> Any:
    """Read one number of a published description; a missing or null one means ``default``.

    Raises:
        ConfigError: there is neither a value nor a default, or the value is not of that kind.
    """
    value = published.get(name)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"{name} is missing, and its format documents no default for it")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is(value, kind):
        raise ConfigError(f"{name} is {shown(value)}; expected a number ({_DEMANDED[kind]})")
    return kind(value)


def _is(value: float, kind: type[int] | type[float]) -> bool:
    return abs(value) <= _LARGEST[kind] and kind(value) == value  # false of NaN as well


def flag(published: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """Read one boolean of a published description; a missing or null one means ``default``.

    Raises:
        ConfigError: it is neither true nor false.
    """
    value = published.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {shown(value)}; expected true or false")
    return value


def text(published: Mapping[str, Any], name: str) -> str | None:
    """Read one text of a published description; None where it is missing or null.

    Raises:
        ConfigError: it is not a text.
    """
    value = published.get(name)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{name} is {shown(value)}; expected a text")
    return value


def listed(published: Mapping[str, Any], name: str, kind: type[Any]) -> list[Any]:
    """Read a list of texts, whole numbers or numbers; a missing or null one is empty.

    Raises:
        ConfigError: it is no list, or one of its values is of another kind.
    """
    value = published.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(f"{name} is {shown(value)}; expected a list of {_PLURALS[kind]}")
    kinds = (int, float) if kind is float else (kind,)
    for place, each in enumerate(value):
        if isinstance(each, bool) or not isinstance(each, kinds):
            raise ConfigError(
                f"{name} has {shown(each)} at place {place}; expected a list of {_PLURALS[kind]}"
            )
    return value


def texts(published: Mapping[str, Any], name: str) -> list[str]:
    """Read a list of names of a published description; a missing or null one is empty.

    Raises:
        ConfigError: it is no list, or has anything but texts.
    """
    value = published.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(f"{name} is {shown(value)}; expected a list of names")
    return value


def token_id(published: Mapping[str, Any], name: str) -> int | None:
    """Read one token id of a published description; None where it is missing or null.

    Raises:
        ConfigError: it is not a whole number of at least 0.
    """
    if published.get(name) is None:
        return None
    found = int(number(published, name, int))
    if found < 0:
        raise ConfigError(f"{name} is {found}; expected at least 0, or null for no such token")
    return found


def token_ids(published: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Read one token id, or a list of them, of a published description; () where there is none.

    Raises:
        ConfigError: an id is not a whole number of at least 0, or a list has a null.
    """
    value = published.get(name)
    listed = value if isinstance(value, list) else [value]
    found = tuple(token_id({name: each}, name) for each in listed)
    if isinstance(value, list) and None in found:
        raise ConfigError(f"{name} is {shown(value)}; expected no null among several ids")
    return tuple(each for each in found if each is not None)
