"""What an export left on the disk: whether an artifact is whole, and which."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..graphs.writing.partial_folder import partial_of

Contents = dict[str, str]  # sha256 of each file, by its path


def contents(folder: Path) -> Contents:
    """What is in a folder; nothing where there is none."""
    if not folder.is_dir():
        return {}
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def why_lost(out: Path, *, older: Contents, expected: Contents) -> str:
    """What an ended export broke; empty where it broke nothing.

    Args:
        out: its artifact.
        older: what was there before; empty: nothing.
        expected: what an export that nobody ends makes.
    """
    partial = partial_of(out)
    if beside := {path.name for path in out.parent.iterdir()} - {out.name, partial.name}:
        return f"left {min(beside)} beside the artifact"
    found = contents(out)
    if found in (older, expected):
        return ""
    if not found and contents(partial / "replaced") == older:  # the next run brings it back
        return ""
    return "holds neither what was there nor a whole artifact" if found else "lost what was there"


def why_unlike(out: Path, expected: Contents) -> str:
    """Where a finished export differs from one that nobody ended; empty where it does not."""
    if beside := {path.name for path in out.parent.iterdir()} - {out.name}:
        return f"left {min(beside)} beside the artifact"
    found = contents(out)
    names = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    return f"other bytes than an export that nobody ended: {', '.join(names)}" if names else ""
