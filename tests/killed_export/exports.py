"""Exports in processes of their own that a test may stop, kill and wait for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

INT8 = ("--quant", "int8")
INT8_IN_FILES = (*INT8, "--max-shard", "600kB")
INT4 = ("--quant", "int4-rtn")
INT4_IN_FILES = (*INT4, "--max-shard", "600kB")

FORKS = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the tests fork processes and kill them"),
]
GOING_ON = "an earlier run was interrupted: resuming it\n"
OVER = "an earlier run was interrupted: starting over, "

SLOW = 0.16  # seconds for one weight, where it shall be hit while it is being written
HALFWAY = ("tramontane.graphs.writing.journal:Journal.add", "after", 20)
RENAME = "pathlib:Path.rename"
SAVE = "onnx_ir:save"
DEADLINE_SECONDS = 60


@dataclass(frozen=True)
class Export:
    """One run of the command, in a process of its own."""

    pid: int
    log: Path

    @property
    def said(self) -> str:
        """All of its output, without the names of weights it computed."""
        return "".join(line for line in self._lines() if not line.startswith("computes "))

    @property
    def computed(self) -> list[str]:
        """Weights whose numbers it computed, in order."""
        return [line.split()[1] for line in self._lines() if line.startswith("computes ")]

    def until_paused(self) -> None:
        until(lambda: self.log.with_suffix(".paused").exists(), self)

    def go_on(self) -> None:
        self.log.with_suffix(".go").touch()

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines(keepends=True) if self.log.exists() else []


class Exports:
    """The server that forks exports; see ``killable_export.py``."""

    def __init__(self, server: subprocess.Popen[str], logs: Path, checkpoint: Path) -> None:
        self.server, self.logs, self.checkpoint = server, logs, checkpoint
        self.running: set[int] = set()

    def start(
        self,
        out: Path,
        *options: str,
        checkpoint: Path | None = None,
        is_traced: bool = False,
        slow_from: int | None = None,
        pause: tuple[str, str, int] | None = None,
    ) -> Export:
        """Begin an export.

        Args:
            out: its artifact.
            options: of the command.
            checkpoint: another one of the same architecture.
            is_traced: trace the model anew, which takes most of an export's time.
            slow_from: write weights slowly from this one on.
            pause: stop at a function: its address, before or after, at which call.
        """
        log = self.logs / f"{sum(1 for _ in self.logs.glob('*.log'))}.log"
        log.touch()
        source = str(checkpoint or self.checkpoint)
        request = {
            "do": "start",
            "arguments": ["export", source, "--out", str(out), "--no-validate", *options],
            "log": str(log),
            "is_traced": is_traced,
            "slow_from": slow_from,
            "seconds": SLOW,
            "pause": pause,
        }
        export = Export(self._ask(request), log)
        self.running.add(export.pid)
        return export

    def wait(self, export: Export) -> int:
        """Its exit status, or minus the number of the signal that ended it."""
        self.running.remove(export.pid)
        return self._ask({"do": "wait", "pid": export.pid})

    def finish(self, out: Path, *options: str, **how: Any) -> Export:
        """Run an export to its end."""
        export = self.start(out, *options, **how)
        assert self.wait(export) == 0, export.said
        return export

    def kill(self, export: Export) -> None:
        os.kill(export.pid, signal.SIGKILL)
        assert self.wait(export) == -signal.SIGKILL, f"it was over already:\n{export.said}"

    def kill_at(self, pause: tuple[str, str, int], out: Path, *options: str, **how: Any) -> Export:
        """Begin an export and kill it where it pauses."""
        export = self.start(out, *options, pause=pause, **how)
        export.until_paused()
        self.kill(export)
        return export

    def close(self) -> None:
        """End what a failed test has left running."""
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)

    def _ask(self, request: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


def until(is_so: Callable[[], bool], export: Export) -> None:
    """Wait, looking often."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain:\n{export.said}"
        time.sleep(0.004)
