"""Parses JSON that others wrote: text in UTF-8, of bounded depth, without halves of characters."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ContractError, TramontaneError, printable
from .fields import decode
from .files import read_file

T = TypeVar("T")

SMALL_BYTES = 64 << 20  # of a config or a manifest, which is read whole
LARGE_BYTES = 96 << 20  # of a tokenizer; three times the largest that is published
# Of a document, by its commas and brackets; each may take 200 bytes of memory. A tokenizer of a
# million pieces and as many merges has 4 million.
_MOST_VALUES = 5_000_000
_SEPARATORS = (b",", b"[", b"{")
_DEEPEST = 100  # objects and lists inside each other
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_WORDS = 200  # characters of what the parser says


def parse_json(
    content: bytes,
    *,
    what: object,
    error: type[TramontaneError] = ContractError,
    remedy: str = "copy it again",
) -> Any:
    """Parse a JSON document.

    Args:
        content: the document.
        what: the file or the part of one that messages name.
        error: the type of error that is raised.
        remedy: what messages advise.

    Raises:
        error: it has too many values, is not UTF-8, not JSON, nested too deep, or has half of a
            surrogate pair.
    """
    if (signs := sum(map(content.count, _SEPARATORS))) > _MOST_VALUES:
        raise error(
            f"{what}: {signs} commas and brackets, expected at most {_MOST_VALUES}; {remedy}"
        )
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as cause:
        said = printable(str(cause), most=_WORDS)
        raise error(f"{what}: not JSON ({said}), expected JSON in UTF-8; {remedy}") from cause
    if _is_deeper(found, _DEEPEST):
        raise error(
            f"{what}: lists or objects nested deeper than {_DEEPEST}, expected fewer; {remedy}"
        )
    if _SURROGATE.search(content) and _has_half_character(found):
        raise error(
            f"{what}: has half of a surrogate pair, such as \\ud800 alone, expected whole "
            f"characters; {remedy}"
        )
    return found


def parse_object(
    content: bytes,
    *,
    what: object,
    error: type[TramontaneError] = ContractError,
    remedy: str = "copy it again",
) -> dict[str, Any]:
    """Parse a JSON document that is an object.

    Raises:
        error: as ``parse_json``, or it is no object.
    """
    found = parse_json(content, what=what, error=error, remedy=remedy)
    if not isinstance(found, dict):
        raise error(f"{what}: holds a {type(found).__name__}, expected an object; {remedy}")
    return found


def read_object(
    path: Path, *, error: type[TramontaneError] = ContractError, remedy: str = "copy it again"
) -> dict[str, Any]:
    """Read a small JSON file that holds an object.

    Raises:
        error: as ``parse_object``, or it is no regular file or a large one.
    """
    content = read_file(path, most=SMALL_BYTES, error=error, remedy=remedy)
    return parse_object(content, what=path, error=error, remedy=remedy)


def read_typed(kind: type[T], path: Path, *, remedy: str = "copy it again") -> T:
    """Read a small JSON file that holds the fields of a TypedDict or a dataclass.

    Raises:
        ContractError: as ``read_object``; or a field is missing or has another type.
    """
    found = read_object(path, remedy=remedy)
    try:
        typed: T = decode(kind, found, where="")
    except ContractError as error:
        raise ContractError(f"{path}: {error}; {remedy}") from error
    return typed


def json_lines(path: Path) -> Iterator[Any]:
    """The value of each line of a file; lines that are no JSON are left out.

    For notes that a run adds line by line: one that was killed, or a power loss, leaves the last
    cut off, or other bytes in its place.

    Raises:
        ContractError: it is no regular file, or a large one.
    """
    for line in read_file(path, most=LARGE_BYTES).splitlines():
        with contextlib.suppress(ContractError):
            yield parse_json(line, what=path)


def _is_deeper(content: Any, most: int) -> bool:
    """Whether lists and objects are nested deeper; level by level, so that nothing recurses."""
    level = [content]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _has_half_character(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
