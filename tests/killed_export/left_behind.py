"""What an export leaves on disk: its artifact, and the folder of one that is not complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tramontane.graphs.writing.partial_folder import partial_of
from tramontane.runtime.manifest import read_manifest, verify_files

PARTIAL = ".artifact.partial"


@dataclass(frozen=True)
class Whole:
    """What an export that nobody interrupted made."""

    contents: dict[str, bytes]
    weights: list[str]  # names, in the order of writing
    seconds: float


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def noted(out: Path) -> list[str]:
    """Weights that the journal has a whole line of."""
    journal = partial_of(out) / "journal.jsonl"
    if not journal.exists():
        return []
    lines = journal.read_text().splitlines(keepends=True)[1:]
    return [json.loads(line)["name"] for line in lines if line.endswith("\n")]


def has_noted(out: Path, count: int) -> bool:
    return len(noted(out)) >= count


def put(older: Whole, out: Path) -> dict[str, bytes]:
    """Let an artifact of another recipe lie where another shall."""
    for name, content in older.contents.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return older.contents


def assert_nothing_new(out: Path, older: dict[str, bytes]) -> None:
    """Nothing is under the final name; where an artifact was, it is still whole."""
    assert set(names(out.parent)) <= {PARTIAL, *([out.name] if older else [])}
    if older:
        assert contents(out) == older
        verify_files(out, read_manifest(out))


def assert_finished(out: Path, expected: Whole) -> None:
    """The artifact is the one of a run that nobody interrupted, and lies alone."""
    assert names(out.parent) == [out.name]
    found = contents(out)
    assert found.keys() == expected.contents.keys()
    for name, content in expected.contents.items():
        assert found[name] == content, f"{name} has other bytes"
