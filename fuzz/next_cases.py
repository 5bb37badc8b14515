"""Keeps the number of each reader's next case between runs, so that none is tried twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..runtime.durable import replace_file
from ..runtime.errors import ContractError
from ..runtime.untrusted.fields import decode
from ..runtime.untrusted.json_text import read_object

_FILE = "next-cases.json"
_REMEDY = "remove it to begin with case 0"


def next_case(folder: Path, readers: Sequence[str], *, seed: int) -> int:
    """The first case that one of the readers has not had; 0 where no run was.

    Raises:
        ContractError: the file cannot be read, or holds no numbers from 0.
    """
    found = _read(folder).get(f"{seed}", {})
    return min(found.get(name, 0) for name in readers)


def note_next(folder: Path, readers: Sequence[str], number: int, *, seed: int) -> None:
    """Note that the next case of these readers is this one, or a later one that was noted.

    Raises:
        ContractError: as ``next_case``.
    """
    every = _read(folder)
    found = every.setdefault(f"{seed}", {})
    found |= {name: max(number, found.get(name, 0)) for name in readers}
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{_FILE}"
    fresh.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
    replace_file(fresh, folder / _FILE)


def _read(folder: Path) -> dict[str, dict[str, int]]:
    path = folder / _FILE
    if not path.exists():
        return {}
    content = read_object(path, remedy=_REMEDY)
    try:
        found: dict[str, dict[str, int]] = decode(dict[str, dict[str, int]], content, where="")
    except ContractError as error:
        raise ContractError(f"{path}: {error}; {_REMEDY}") from error
    if min((number for each in found.values() for number in each.values()), default=0) < 0:
        raise ContractError(f"{path}: a number is below 0, expected 0 or more; {_REMEDY}")
    return found
