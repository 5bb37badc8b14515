"""Are other runtimes installed once and whole, and is what lacks or fails told in words?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest
from tramontane.environments import environments
from tramontane.environments.environments import Absent

Install = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environments, "home", lambda: tmp_path / "runtimes")
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

    monkeypatch.setattr(environments, "run", run)
    monkeypatch.setattr(environments.shutil, "which", lambda name: f"/usr/bin/{name}")
    return commands


def test_what_a_command_writes_to_standard_output_is_returned() -> None:
    script = "import sys; print('answer'); print('noise', file=sys.stderr)"
    assert environments.run([sys.executable, "-c", script]) == "answer\n"


def test_folder_and_variables_are_the_commands_own_beside_those_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "1")
    script = "import os; print(os.getcwd(), os.environ['INHERITED'], os.environ['ADDED'])"
    found = environments.run([sys.executable, "-c", script], cwd=tmp_path, env={"ADDED": "2"})
    assert found.split() == [os.path.realpath(tmp_path), "1", "2"]


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_failed_command_is_named_with_its_status_and_last_lines(stream: str) -> None:
    script = f"import sys; print(*range(9), sep='\\n', file=sys.{stream}); sys.exit(3)"
    with pytest.raises(Absent) as refusal:
        environments.run([sys.executable, "-c", script])
    assert str(refusal.value) == f"{sys.executable} -c {script}: exit status 3; 5 / 6 / 7 / 8"


def test_a_missing_command_is_absent() -> None:
    with pytest.raises(Absent, match=r"^no-such-command: No such file or directory$"):
        environments.run(["no-such-command", "--version"])


# Starts a child that holds nothing of its own, tells its number, and hangs.
HANG = """
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", CHILD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
)
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""
SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"


@pytest.mark.parametrize("child", [SLEEP, STUBBORN])
def test_a_command_that_hangs_is_ended_with_its_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str
) -> None:
    monkeypatch.setattr(environments, "_LIMIT_SECONDS", 1)
    told = tmp_path / "pid"
    with pytest.raises(Absent, match=r"no end after 1 seconds$"):
        environments.run([sys.executable, "-c", f"CHILD = {child!r}{HANG}", told])
    assert _is_gone(int(told.read_text()))


def test_a_command_that_does_not_heed_an_interrupt_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "_LIMIT_SECONDS", 1)
    monkeypatch.setattr(environments, "_GRACE_SECONDS", 0.1)
    told = tmp_path / "pid"
    script = f"import os; open({str(told)!r}, 'w').write(str(os.getpid())); {STUBBORN}"
    with pytest.raises(Absent, match=r"no end after 1 seconds$"):
        environments.run([sys.executable, "-c", script])
    assert _is_gone(int(told.read_text()))


def test_who_leads_a_browser_can_end_it_though_it_is_in_a_group_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "_LIMIT_SECONDS", 1)
    told = tmp_path / "pid"
    script = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
try:
    time.sleep(60)
except KeyboardInterrupt:
    child.kill()
"""
    with pytest.raises(Absent, match=r"no end after 1 seconds$"):
        environments.run([sys.executable, "-c", script, told])
    assert _is_gone(int(told.read_text()))


def test_an_interrupt_ends_the_command_with_its_child_too(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    hang = f"CHILD = {SLEEP!r}{HANG}"
    script = f"""
import sys
from tramontane.environments import environments
try:
    environments.run([sys.executable, "-c", {hang!r}, {str(told)!r}])
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as waiting:
        _wait_until(lambda: told.exists() and told.read_text() != "")
        waiting.send_signal(signal.SIGINT)
        said, _ = waiting.communicate(timeout=30)
    assert said == b"interrupted\n"
    assert _is_gone(int(told.read_text()))


def test_a_command_is_asked_nothing() -> None:
    assert environments.run(
        [sys.executable, "-c", "import sys; print(sys.stdin.read() == '')"]
    ) == ("True\n")


def test_each_step_of_a_python_is_installed_by_one_pip_and_all_of_them_once(
    home: Path, ran: list[list[str]]
) -> None:
    python = environments.python_with("own", ["a==1"], ["b", "c<2"])
    assert python == home / "own" / "bin" / "python"
    assert ran == [
        [sys.executable, "-m", "venv", str(home / "own")],
        [str(python), "-m", "pip", "install", "--quiet", "a==1"],
        [str(python), "-m", "pip", "install", "--quiet", "b", "c<2"],
    ]
    assert environments.python_with("own", ["a==1"], ["b", "c<2"]) == python
    assert len(ran) == 3


def test_node_packages_are_installed_once_and_without_their_scripts(
    home: Path, ran: list[list[str]]
) -> None:
    assert environments.node_with("web", ["p@1", "q@2"]) == home / "web"
    assert environments.node_with("web", ["p@1", "q@2"]) == home / "web"
    assert [command[:2] + command[-2:] for command in ran] == [["npm", "install", "p@1", "q@2"]]
    assert "--ignore-scripts" in ran[0]
    assert (home / "web" / "package.json").is_file()  # or npm would install into a folder above


@pytest.mark.parametrize("install", [environments.python_with, environments.node_with])
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
    environments.python_with("own", ["a==1"])
    before = len(ran)
    monkeypatch.setattr(environments.sys, "version", "4.0.0")
    environments.python_with("own", ["a==1"])
    assert len(ran) == 2 * before


@pytest.mark.parametrize("install", [environments.python_with, environments.node_with])
def test_nobody_else_makes_or_removes_an_environment_meanwhile(
    install: Install, home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = environments.run

    def look(command: Sequence[str | Path], **options: Any) -> str:
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(home / "own.lock").acquire(timeout=0)
        return pretend(command, **options)

    monkeypatch.setattr(environments, "run", look)
    install("own", ["a==1"])
    assert ran
    with filelock.FileLock(home / "own.lock", timeout=0):  # given back
        pass


@pytest.mark.parametrize("install", [environments.python_with, environments.node_with])
def test_who_waited_for_another_to_make_it_finds_it_made(
    install: Install, home: Path, ran: list[list[str]]
) -> None:
    made_of = (sys.version, (["a==1"],)) if install is environments.python_with else ["a==1"]
    with ThreadPoolExecutor() as pool:
        with environments.alone(home / "own"):
            waiting = pool.submit(install, "own", ["a==1"])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            (home / "own").mkdir()
            environments.mark_ready(home / "own", made_of)
        assert waiting.result(timeout=10).is_relative_to(home / "own")
    assert not ran


@pytest.mark.parametrize("install", [environments.python_with, environments.node_with])
def test_a_half_made_folder_is_not_taken_for_ready(
    install: Install, home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: Sequence[str | Path], **_: object) -> str:
        (home / "own" / "half").parent.mkdir(parents=True, exist_ok=True)
        (home / "own" / "half").touch()
        raise Absent("no network")

    with monkeypatch.context() as patch:
        patch.setattr(environments, "run", fail)
        with pytest.raises(Absent, match="no network"):
            install("own", ["a==1"])
    assert (home / "own" / "half").exists()
    install("own", ["a==1"])
    assert ran
    assert not (home / "own" / "half").exists()


@pytest.mark.parametrize("install", [environments.python_with, environments.node_with])
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
    environments.node_with("own", ["a==1"])
    (home / "notes.txt").write_text("mine")
    environments.node_with("own", ["a==2"])
    assert (home / "notes.txt").read_text() == "mine"


def test_an_environment_of_an_earlier_version_without_a_mark_is_ours(
    home: Path, ran: list[list[str]]
) -> None:
    (home / "own").mkdir(parents=True)
    environments.mark_ready(home / "own", "another content")
    environments.node_with("own", ["a==1"])
    assert ran


def test_a_file_with_the_locks_name_is_not_emptied(home: Path, ran: list[list[str]]) -> None:
    home.mkdir()
    (home / "own.lock").write_text("mine")
    with pytest.raises(Absent, match=r"own\.lock: is not a lock of ours, expected an empty file"):
        environments.node_with("own", ["a==1"])
    assert (home / "own.lock").read_text() == "mine"


@pytest.mark.parametrize("missing", ["npm", "node"])
def test_without_npm_or_node_nothing_is_made(
    home: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(
        environments.shutil, "which", lambda name: name if name != missing else None
    )
    with pytest.raises(Absent, match=rf"^{missing}: not on PATH$"):
        environments.node_with("web", ["p@1"])
    assert not ran
    assert not home.exists()


def test_a_folder_is_ready_for_what_it_was_made_of_alone(tmp_path: Path) -> None:
    assert not environments.is_ready(tmp_path, ["a"])
    environments.mark_ready(tmp_path, ["a"])
    assert environments.is_ready(tmp_path, ["a"])
    assert not environments.is_ready(tmp_path, ["a", "b"])


def _is_gone(pid: int) -> bool:
    """Whether a process ended; one that was nobody's child any more is put away a little later."""
    return _wait_until(lambda: not Path(f"/proc/{pid}").exists())


def _wait_until(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
    return is_so()
