"""A process ends soon after the one that started it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tramontane.console.processes.end_with_parent import command_of

CHILD = """
import os, sys, time
from tramontane.console.processes.end_with_parent import end_with_parent
end_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""
IMPORTS_FOR_LONG = """
import os, time
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT_OF_A_MODULE = """
import subprocess
from tramontane.console.processes.end_with_parent import command_of
subprocess.run(command_of("imports_for_long"))
"""
PARENT = f"""
import os, subprocess, sys
subprocess.run([sys.executable, "-c", {CHILD!r}, str(os.getpid())])
"""


@pytest.mark.skipif(os.name == "nt", reason="processes there get no other parent")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_when_its_parent_is_killed(number: signal.Signals) -> None:
    assert_ends([sys.executable, "-c", PARENT], number)


@pytest.mark.skipif(os.name == "nt", reason="processes there get no other parent")
def test_a_child_ends_though_it_still_imports(tmp_path: Path) -> None:
    (tmp_path / "imports_for_long.py").write_text(IMPORTS_FOR_LONG)
    found = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", PARENT_OF_A_MODULE]
    assert_ends(command, signal.SIGKILL, {**os.environ, "PYTHONPATH": found.strip(os.pathsep)})


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal there")
def test_ctrl_c_while_a_child_imports_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "imports_for_long.py").write_text(IMPORTS_FOR_LONG)
    with subprocess.Popen(
        command_of("imports_for_long"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait() == -signal.SIGINT
        assert child.stderr.read() == b""


def assert_ends(
    command: list[str], number: signal.Signals, env: dict[str, str] | None = None
) -> None:
    """Kill a process, and see that the one that it started, whose number it prints, ends."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait()
        assert parent.stdout.read() == b""  # its end comes when the child has ended
    for _ in range(50):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} still runs")
