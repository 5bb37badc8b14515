"""Folders of Node packages."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from . import commands, folders
from .errors import Absent


def node_with(name: str, packages: Sequence[str]) -> Path:
    """A folder where Node packages are installed once, without running their scripts.

    Raises:
        Absent: no npm, or it could not install them.
    """
    for program in ("npm", "node"):
        if shutil.which(program) is None:
            raise Absent(f"{program}: not on PATH")

    def make(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
        commands.run(["npm", "install", *quiet, *packages], cwd=folder)

    return folders.make_once(folders.home() / name, packages, make, saying=f"installing {name}")
