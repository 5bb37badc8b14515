"""Python environments with packages of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from . import commands, folders
from .errors import Absent


def python_with(name: str, *steps: Sequence[str]) -> Path:
    """The Python of an environment that is installed once; each step is one call of pip.

    Raises:
        Absent: pip could not install them.
    """

    def make(folder: Path) -> None:
        commands.run([sys.executable, "-m", "venv", folder])
        for requirements in steps:
            commands.run(
                [_python_in(folder), "-m", "pip", "install", "--quiet", *requirements],
                limit_s=commands.LONG_LIMIT_S,  # pip may compile llama.cpp
            )

    made_of = (sys.version, steps)
    return _python_in(
        folders.make_once(folders.home() / name, made_of, make, saying=f"installing {name}")
    )


def packages_of(python: Path) -> Path:
    """The folder from which an environment's Python imports what was installed there.

    Raises:
        Absent: there is none.
    """
    found = sorted((python.parents[1] / "lib").glob("python3.*/site-packages"))
    if not found:
        raise Absent(f"{python}: no lib/python3.N/site-packages beside it")
    return found[0]


def _python_in(folder: Path) -> Path:
    return folder / "bin" / "python"
