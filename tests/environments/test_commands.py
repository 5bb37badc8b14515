"""Tests of running a command: its output, its failures, its time limit, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.environments import commands
from tramontane.environments.errors import Absent

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


def test_what_a_command_writes_to_standard_output_is_returned() -> None:
    script = "import sys; print('answer'); print('noise', file=sys.stderr)"
    assert commands.run([sys.executable, "-c", script]) == "answer\n"


def test_folder_and_variables_are_the_commands_own_beside_those_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "1")
    script = "import os; print(os.getcwd(), os.environ['INHERITED'], os.environ['ADDED'])"
    found = commands.run([sys.executable, "-c", script], cwd=tmp_path, env={"ADDED": "2"})
    assert found.split() == [os.path.realpath(tmp_path), "1", "2"]


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_failed_command_is_named_with_its_status_and_last_lines(stream: str) -> None:
    script = f"import sys; print(*range(9), sep='\\n', file=sys.{stream}); sys.exit(3)"
    with pytest.raises(Absent) as refusal:
        commands.run([sys.executable, "-c", script])
    assert str(refusal.value) == f"{sys.executable} -c {script}: exit status 3; 5 / 6 / 7 / 8"


def test_a_missing_command_is_absent() -> None:
    with pytest.raises(Absent, match=r"^no-such-command: No such file or directory$"):
        commands.run(["no-such-command", "--version"])


@pytest.mark.parametrize("child", [SLEEP, STUBBORN])
def test_a_command_that_hangs_is_ended_with_its_child(tmp_path: Path, child: str) -> None:
    told = tmp_path / "pid"
    with pytest.raises(Absent, match=r"has not ended after 1 seconds, .*; run it alone"):
        commands.run([sys.executable, "-c", f"CHILD = {child!r}{HANG}", told], limit_s=1)
    assert _is_gone(int(told.read_text()))


def test_a_command_that_does_not_heed_an_interrupt_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_GRACE_SECONDS", 0.1)
    told = tmp_path / "pid"
    script = f"import os; open({str(told)!r}, 'w').write(str(os.getpid())); {STUBBORN}"
    with pytest.raises(Absent, match=r"has not ended after 1 seconds, .*; run it alone"):
        commands.run([sys.executable, "-c", script], limit_s=1)
    assert _is_gone(int(told.read_text()))


def test_who_leads_a_browser_can_end_it_though_it_is_in_a_group_of_its_own(tmp_path: Path) -> None:
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
    with pytest.raises(Absent, match=r"has not ended after 1 seconds, .*; run it alone"):
        commands.run([sys.executable, "-c", script, told], limit_s=1)
    assert _is_gone(int(told.read_text()))


def test_an_interrupt_ends_the_command_with_its_child_too(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    hang = f"CHILD = {SLEEP!r}{HANG}"
    script = f"""
import sys
from tramontane.environments import commands
try:
    commands.run([sys.executable, "-c", {hang!r}, {str(told)!r}])
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
    assert commands.run([sys.executable, "-c", "import sys; print(sys.stdin.read() == '')"]) == (
        "True\n"
    )


ENDLESS = "import os\nwhile True: os.write(1, b'x' * 4096)"


def test_a_command_that_writes_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MOST_BYTES", 10**6)
    with pytest.raises(Absent, match=r"wrote more than 1.00 MB to standard output, expected less"):
        commands.run([sys.executable, "-c", ENDLESS])


@pytest.mark.parametrize("stream", [1, 2])
def test_a_limit_on_time_is_one_on_a_command_that_writes_too(stream: int) -> None:
    script = f"import os, time\nwhile True: os.write({stream}, b'x'); time.sleep(0.01)"
    with pytest.raises(Absent, match=r"has not ended after 0\.5 seconds"):
        commands.run([sys.executable, "-c", script], limit_s=0.5)


def test_of_standard_error_the_end_alone_is_kept_and_told_short() -> None:
    script = "import sys; sys.stderr.write('first' + 'x' * 10**7 + '\\x1b[31mlast'); sys.exit(2)"
    with pytest.raises(Absent) as refusal:
        commands.run([sys.executable, "-c", script])
    said = str(refusal.value)
    assert len(said) < 4000
    assert said.isprintable()
    assert said.endswith("xx\\x1b[31mlast")
    assert "exit status 2; xxx" in said


def test_both_outputs_may_be_full_at_once() -> None:
    script = "import sys; sys.stderr.write('e' * 10**6); sys.stdout.write('o' * 10**6)"
    assert commands.run([sys.executable, "-c", script]) == "o" * 10**6


def test_the_answer_of_a_command_is_its_last_line() -> None:
    script = r"print('noise\n{\"text\": \"a\u2028b\"}')"
    assert commands.answer([sys.executable, "-c", script]) == {"text": "a\u2028b"}


@pytest.mark.parametrize("said", ["", "Segmentation fault", "[1]", "[" * 9000, '{"a": "\\ud800"}'])
def test_a_last_line_that_is_no_answer_is_shown_short(said: str) -> None:
    with pytest.raises(Absent, match="its last line is no JSON object: ") as refusal:
        commands.answer([sys.executable, "-c", f"print({said!r})", "a", "b"])
    assert len(str(refusal.value).split("its last line")[1]) < 200


def _is_gone(pid: int) -> bool:
    """Whether a process ended; one that was nobody's child any more is put away a little later."""
    return _wait_until(lambda: not Path(f"/proc/{pid}").exists())


def _wait_until(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
    return is_so()
