"""Tests of environments that are installed once, complete, and by one process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest
from tramontane.environments import commands, folders, node, python
from tramontane.environments.errors import Absent

Install = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "home", lambda: tmp_path / "runtimes")
    return tmp_path / "runtimes"


@pytest.fixture
def ran(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run: ``python -m venv`` makes its folder, pip and npm nothing."""
    calls: list[list[str]] = []

    def run(command: Sequence[str | Path], **_: object) -> str:
        words = [str(word) for word in command]
        calls.append(words)
        if "venv" in words:
            Path(words[-1]).mkdir(parents=True, exist_ok=True)
        return ""

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(node.shutil, "which", lambda name: f"/usr/bin/{name}")
    return calls


def test_each_step_of_a_python_is_installed_by_one_pip_and_all_of_them_once(
    home: Path, ran: list[list[str]]
) -> None:
    found = python.python_with("own", ["a==1"], ["b", "c<2"])
    assert found == home / "own" / "bin" / "python"
    assert ran == [
        [sys.executable, "-m", "venv", str(home / "own")],
        [str(found), "-m", "pip", "install", "--quiet", "a==1"],
        [str(found), "-m", "pip", "install", "--quiet", "b", "c<2"],
    ]
    assert python.python_with("own", ["a==1"], ["b", "c<2"]) == found
    assert len(ran) == 3


def test_node_packages_are_installed_once_and_without_their_scripts(
    home: Path, ran: list[list[str]]
) -> None:
    assert node.node_with("web", ["p@1", "q@2"]) == home / "web"
    assert node.node_with("web", ["p@1", "q@2"]) == home / "web"
    assert [command[:2] + command[-2:] for command in ran] == [["npm", "install", "p@1", "q@2"]]
    assert "--ignore-scripts" in ran[0]
    assert (home / "web" / "package.json").is_file()  # or npm would install into a folder above


@pytest.mark.parametrize("install", [python.python_with, node.node_with])
def test_other_requirements_make_it_anew(
    install: Install, home: Path, ran: list[list[str]]
) -> None:
    (install("own", ["a==1"]), (home / "own" / "of-version-1").touch())
    before = len(ran)
    install("own", ["a==2"])
    assert len(ran) == 2 * before
    assert not (home / "own" / "of-version-1").exists()


def test_another_python_makes_its_environment_anew(
    home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    python.python_with("own", ["a==1"])
    before = len(ran)
    monkeypatch.setattr(python.sys, "version", "4.0.0")
    python.python_with("own", ["a==1"])
    assert len(ran) == 2 * before


@pytest.mark.parametrize("install", [python.python_with, node.node_with])
def test_nobody_else_makes_or_removes_an_environment_meanwhile(
    install: Install, home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = commands.run

    def look(command: Sequence[str | Path], **options: Any) -> str:
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(home / "own.lock").acquire(timeout=0)
        return pretend(command, **options)

    monkeypatch.setattr(commands, "run", look)
    install("own", ["a==1"])
    assert ran
    with filelock.FileLock(home / "own.lock", timeout=0):  # given back
        pass


@pytest.mark.parametrize("install", [python.python_with, node.node_with])
def test_who_waited_for_another_to_make_it_finds_it_made(
    install: Install, home: Path, ran: list[list[str]]
) -> None:
    made_of = (sys.version, (["a==1"],)) if install is python.python_with else ["a==1"]
    with ThreadPoolExecutor() as pool:
        with folders.locked(home / "own"):
            waiting = pool.submit(install, "own", ["a==1"])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            (home / "own").mkdir()
            folders.mark_ready(home / "own", made_of)
        assert waiting.result(timeout=10).is_relative_to(home / "own")
    assert not ran


@pytest.mark.parametrize("install", [python.python_with, node.node_with])
def test_a_half_made_folder_is_not_taken_for_ready(
    install: Install, home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: Sequence[str | Path], **_: object) -> str:
        (home / "own" / "half").parent.mkdir(parents=True, exist_ok=True)
        (home / "own" / "half").touch()
        raise Absent("no network")

    with monkeypatch.context() as patch:
        patch.setattr(commands, "run", fail)
        with pytest.raises(Absent, match="no network"):
            install("own", ["a==1"])
    assert (home / "own" / "half").exists()
    install("own", ["a==1"])
    assert ran
    assert not (home / "own" / "half").exists()


@pytest.mark.parametrize("install", [python.python_with, node.node_with])
def test_a_folder_that_is_not_ours_is_named_and_stays(
    install: Install, home: Path, ran: list[list[str]]
) -> None:
    (home / "own").mkdir(parents=True)
    (home / "own" / "notes.txt").write_text("mine")
    (home / "own" / ".ready").write_text("for me")
    with pytest.raises(Absent, match=r"own: exists and was not made by tramontane .* elsewhere$"):
        install("own", ["a==1"])
    assert (home / "own" / "notes.txt").read_text() == "mine"
    assert not ran


def test_what_lies_beside_an_environment_stays_when_it_is_made_anew(
    home: Path, ran: list[list[str]]
) -> None:
    node.node_with("own", ["a==1"])
    (home / "notes.txt").write_text("mine")
    node.node_with("own", ["a==2"])
    assert (home / "notes.txt").read_text() == "mine"


def test_an_environment_of_an_earlier_version_without_a_mark_is_ours(
    home: Path, ran: list[list[str]]
) -> None:
    (home / "own").mkdir(parents=True)
    folders.mark_ready(home / "own", "another content")
    node.node_with("own", ["a==1"])
    assert ran


def test_a_file_with_the_locks_name_is_not_emptied(home: Path, ran: list[list[str]]) -> None:
    home.mkdir()
    (home / "own.lock").write_text("mine")
    with pytest.raises(Absent, match=r"own\.lock: is not a lock of ours, expected an empty file"):
        node.node_with("own", ["a==1"])
    assert (home / "own.lock").read_text() == "mine"


@pytest.mark.parametrize("missing", ["npm", "node"])
def test_without_npm_or_node_nothing_is_made(
    home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(node.shutil, "which", lambda name: name if name != missing else None)
    with pytest.raises(Absent, match=rf"^{missing}: not on PATH$"):
        node.node_with("web", ["p@1"])
    assert not ran
    assert not home.exists()


def test_a_folder_is_ready_for_what_it_was_made_of_alone(tmp_path: Path) -> None:
    assert not folders.is_ready(tmp_path, ["a"])
    folders.mark_ready(tmp_path, ["a"])
    assert folders.is_ready(tmp_path, ["a"])
    assert not folders.is_ready(tmp_path, ["a", "b"])
