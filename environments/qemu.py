"""Runs a program on an emulated processor."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from . import commands, debian, folders
from .errors import Absent

_PROGRAMS = ("qemu-aarch64-static", "qemu-x86_64-static")
_WITHOUT_VNNI = "Haswell-noTSX"  # of 2013: has AVX2, lacks what newer kernels need


def program(name: str) -> str:
    """The path of one of qemu's programs: installed, or unpacked below the user's cache.

    Raises:
        Absent: it cannot be downloaded.
    """
    assert name in _PROGRAMS
    if (found := shutil.which(name)) is not None:
        return found
    folder = folders.make_once(folders.home() / "qemu", _PROGRAMS, _make, saying="unpacking qemu")
    return str(folder / "usr" / "bin" / name)


def python_without_vnni() -> list[str]:
    """A command that runs this Python on an x86 processor with AVX2 and without VNNI.

    Raises:
        Absent: this machine is not x86, or qemu cannot be downloaded.
    """
    if debian.host() != "amd64":
        raise Absent("this Python is not x86's, and another is not unpacked")
    return [program("qemu-x86_64-static"), "-cpu", _WITHOUT_VNNI, sys.executable]


def _make(folder: Path) -> None:
    host = debian.host()
    with tempfile.TemporaryDirectory() as scratch:
        options = debian.apt_options(Path(scratch), host)
        commands.run(["apt-get", "update", *options])
        debian.unpack(("qemu-user-static",), options, Path(scratch), folder)
    for path in (folder / "usr" / "bin").iterdir():
        if path.name not in _PROGRAMS:  # ten megabytes for each of thirty processors
            path.unlink()
