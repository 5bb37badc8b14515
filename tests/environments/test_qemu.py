"""Is a program for another processor found, or unpacked once, and is what lacks named?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tramontane.environments import commands, debian, folders, qemu
from tramontane.environments.errors import Absent


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "home", lambda: tmp_path)
    monkeypatch.setattr(qemu.shutil, "which", lambda _: None)
    return tmp_path


def unpack(packages: object, options: object, scratch: Path, folder: Path) -> None:
    binaries = folder / "usr" / "bin"
    binaries.mkdir(parents=True)
    for name in ("aarch64", "x86_64", "riscv64"):
        (binaries / f"qemu-{name}-static").touch()


def test_one_that_is_installed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu.shutil, "which", lambda name: f"/opt/{name}")
    assert qemu.program("qemu-aarch64-static") == "/opt/qemu-aarch64-static"


def test_another_is_unpacked_once_without_what_nobody_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(commands, "run", lambda command: (ran.append(command[0]), "amd64")[1])
    monkeypatch.setattr(debian, "unpack", unpack)
    found = Path(qemu.program("qemu-x86_64-static"))
    assert found == home / "qemu" / "usr" / "bin" / "qemu-x86_64-static"
    assert ran == ["dpkg", "apt-get"]
    assert {path.name for path in found.parent.iterdir()} == {
        "qemu-aarch64-static",
        "qemu-x86_64-static",
    }
    monkeypatch.setattr(qemu, "_make", lambda _: pytest.fail("unpacked again"))
    assert qemu.program("qemu-x86_64-static") == str(found)


def test_this_python_runs_on_an_older_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "host", lambda: "amd64")
    monkeypatch.setattr(qemu, "program", lambda name: f"/opt/{name}")
    assert qemu.python_without_vnni() == [
        *("/opt/qemu-x86_64-static", "-cpu", "Haswell-noTSX", sys.executable)
    ]


def test_absent_where_this_python_is_no_x86_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "host", lambda: "arm64")
    with pytest.raises(Absent, match=r"^this Python is not x86's"):
        qemu.python_without_vnni()
