"""Folders that we made, marked as ours, and where a path that may be a link leads.

Nothing is removed or replaced before it is known to be ours: by a mark, written into a folder
before anything else, or by the manifest that lists an artifact's files.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...runtime.contract import MANIFEST_FILE
from ...runtime.errors import ContractError
from ...runtime.untrusted.files import refuse_impossible
from ...runtime.untrusted.json_text import read_object

MARK_FILE = ".tramontane"


def mark(folder: Path, kind: str) -> None:
    """Make a folder, which may be there and empty, and mark it as ours.

    Args:
        folder: the folder.
        kind: what it is for. What removes folders of one kind leaves those of another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK_FILE).write_text(_text(kind), encoding="utf-8")


def is_marked(folder: Path, kind: str) -> bool:
    """Whether we made a folder, for that; a link to one is no folder of ours."""
    path = folder / MARK_FILE
    if folder.is_symlink() or not path.is_file():
        return False
    expected = _text(kind).encode()
    return path.stat().st_size == len(expected) and path.read_bytes() == expected


def _text(kind: str) -> str:
    return f"made by tramontane: {kind}\n"


def is_free(folder: Path) -> bool:
    """Whether nothing has that name, or an empty folder."""
    if not folder.exists():
        return not folder.is_symlink()
    return folder.is_dir() and not any(folder.iterdir())


def target_of(out: Path) -> Path:
    """Where a folder called ``out`` is written: there, or where a link of that name leads.

    Raises:
        ContractError: a link leads to itself, or into a folder that does not exist; or as
            ``refuse_impossible``.
    """
    if not os.path.islink(out):
        refuse_impossible(out)
        target = out
    else:
        try:
            target = out.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError before Python 3.13
            raise ContractError(
                f"{out}: a link that leads to itself, expected one to a folder; remove the link "
                "or name another folder"
            ) from error
        if target.is_symlink() or not target.parent.is_dir():
            raise ContractError(
                f"{out}: a link to {os.readlink(out)}, which lies in no folder, expected one to "
                "a folder or to a name in one; mount its disk, correct the link or name another "
                "folder"
            )
    return target


def refuse_mounted(out: Path) -> None:
    """Refuse a folder where a disk is mounted: it cannot be renamed, nor replaced.

    Raises:
        ContractError: it is one.
    """
    if out.is_dir() and os.path.ismount(out):
        raise ContractError(
            f"{out}: a disk is mounted there, expected a folder that can be renamed; name a "
            f"folder in it, such as {out / 'artifact'}"
        )


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def files_of_artifact(folder: Path) -> set[str] | None:
    """Names of the files that an artifact's manifest lists, its own included.

    None where the folder holds no manifest of an artifact: the name ``manifest.json`` is used by
    other programs too.
    """
    try:
        content = read_object(folder / MANIFEST_FILE)
    except ContractError:
        return None
    if "manifest_sha256" not in content:
        return None
    files = content.get("files")
    return {MANIFEST_FILE, *files} if isinstance(files, dict) else None


def foreign_files(folder: Path, own: set[str]) -> list[str]:
    """Names of what lies in a folder, at any depth, and is none of these files."""
    return sorted(
        name
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
        if (name := path.relative_to(folder).as_posix()) not in own
    )
