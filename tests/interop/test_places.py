"""Are other runtimes installed once and whole, and is what lacks or fails told in words?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tramontane.interop import places
from tramontane.interop.places import Absent

Install = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(places, "home", lambda: tmp_path / "runtimes")
    return tmp_path / "runtimes"


@pytest.fixture
def ran(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run: ``python -m venv`` makes its folder, pip and npm nothing."""
    commands: list[list[str]] = []

    def run(command: Sequence[str | Path], **_: object) -> str:
        words = [str(word) for word in command]
        commands.append(words)
        if "venv" in words:
            Path(words[-1]).mkdir(parents=True, exist_ok=True)
        return ""

    monkeypatch.setattr(places, "run", run)
    monkeypatch.setattr(places.shutil, "which", lambda name: f"/usr/bin/{name}")
    return commands


def test_what_a_command_writes_to_standard_output_is_returned() -> None:
    script = "import sys; print('answer'); print('noise', file=sys.stderr)"
    assert places.run([sys.executable, "-c", script]) == "answer\n"


def test_folder_and_variables_are_the_commands_own_beside_those_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "1")
    script = "import os; print(os.getcwd(), os.environ['INHERITED'], os.environ['ADDED'])"
    found = places.run([sys.executable, "-c", script], cwd=tmp_path, env={"ADDED": "2"})
    assert found.split() == [os.path.realpath(tmp_path), "1", "2"]


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_failed_command_is_named_with_its_status_and_last_lines(stream: str) -> None:
    script = f"import sys; print(*range(9), sep='\\n', file=sys.{stream}); sys.exit(3)"
    with pytest.raises(Absent) as refusal:
        places.run([sys.executable, "-c", script])
    assert str(refusal.value) == f"{sys.executable} -c {script}: exit status 3; 5 / 6 / 7 / 8"


def test_a_missing_command_is_absent() -> None:
    with pytest.raises(Absent, match=r"^no-such-command: No such file or directory$"):
        places.run(["no-such-command", "--version"])


def test_each_step_of_a_python_is_installed_by_one_pip_and_all_of_them_once(
    home: Path, ran: list[list[str]]
) -> None:
    python = places.python_with("own", ["a==1"], ["b", "c<2"])
    assert python == home / "own" / "bin" / "python"
    assert ran == [
        [sys.executable, "-m", "venv", str(home / "own")],
        [str(python), "-m", "pip", "install", "--quiet", "a==1"],
        [str(python), "-m", "pip", "install", "--quiet", "b", "c<2"],
    ]
    assert places.python_with("own", ["a==1"], ["b", "c<2"]) == python
    assert len(ran) == 3


def test_node_packages_are_installed_once_and_without_their_scripts(
    home: Path, ran: list[list[str]]
) -> None:
    assert places.node_with("web", ["p@1", "q@2"]) == home / "web"
    assert places.node_with("web", ["p@1", "q@2"]) == home / "web"
    assert [command[:2] + command[-2:] for command in ran] == [["npm", "install", "p@1", "q@2"]]
    assert "--ignore-scripts" in ran[0]
    assert (home / "web" / "package.json").is_file()  # or npm would install into a folder above


@pytest.mark.parametrize("install", [places.python_with, places.node_with])
def test_other_requirements_make_it_anew(
    install: Install, home: Path, ran: list[list[str]]
) -> None:
    (install("own", ["a==1"]), (home / "own" / "of-version-1").touch())
    before = len(ran)
    install("own", ["a==2"])
    assert len(ran) == 2 * before
    assert not (home / "own" / "of-version-1").exists()


@pytest.mark.parametrize("install", [places.python_with, places.node_with])
def test_a_half_made_folder_is_not_taken_for_ready(
    install: Install, home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: Sequence[str | Path], **_: object) -> str:
        (home / "own" / "half").parent.mkdir(parents=True, exist_ok=True)
        (home / "own" / "half").touch()
        raise Absent("no network")

    with monkeypatch.context() as patch:
        patch.setattr(places, "run", fail)
        with pytest.raises(Absent, match="no network"):
            install("own", ["a==1"])
    assert (home / "own" / "half").exists()
    install("own", ["a==1"])
    assert ran
    assert not (home / "own" / "half").exists()


def test_without_npm_nothing_is_made(
    home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places.shutil, "which", lambda _: None)
    with pytest.raises(Absent, match=r"^npm: not on PATH$"):
        places.node_with("web", ["p@1"])
    assert not ran
    assert not home.exists()


def test_a_folder_is_ready_for_what_it_was_made_of_alone(tmp_path: Path) -> None:
    assert not places.is_ready(tmp_path, ["a"])
    places.mark_ready(tmp_path, ["a"])
    assert places.is_ready(tmp_path, ["a"])
    assert not places.is_ready(tmp_path, ["a", "b"])
