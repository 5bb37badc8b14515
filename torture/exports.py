"""Exports that may be killed: how each is started, watched and ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..console.status import EXIT_BUG, EXIT_INTERRUPTED
from ..runtime.errors import ContractError

LIMIT_S = 10.0  # that an export may take to end after a signal, and its processes after it
_LONGEST_S = 1800.0  # of an export that nobody ends, on a busy machine
_EVERY_S = 0.02
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is exported, and whether the graph is traced anew, as a command does."""

    options: tuple[str, ...]
    is_traced: bool = False


_FILES = ("--max-shard", "1MB")
_CALIBRATED = ("--quant", "int4", "--calibration-tokens", "512")
RECIPES = {
    "int8": Recipe(options=("--quant", "int8")),
    "int8, sharded": Recipe(options=("--quant", "int8", *_FILES)),
    "int4-rtn, sharded": Recipe(options=("--quant", "int4-rtn", *_FILES)),
    "fp32": Recipe(options=("--quant", "fp32")),
    "int8, traced": Recipe(options=("--quant", "int8"), is_traced=True),
    "int4, calibrated": Recipe(options=_CALIBRATED),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How an export ended."""

    status: int  # minus a signal's number, where one ended it
    said: str  # its output
    seconds: float
    left_running: int = 0  # processes that it had started and that did not end

    @property
    def is_typed(self) -> bool:
        """Whether it ended well, by a signal, or by one of our errors without a traceback."""
        return self.status != EXIT_BUG and _TRACEBACK.search(self.said) is None

    @property
    def is_crash(self) -> bool:
        """Whether a signal ended it that nobody sent it to end it."""
        asked = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        return self.status < 0 and -self.status not in asked

    @property
    def was_interrupted(self) -> bool:
        """Whether a signal ended it."""
        return self.status < 0 or self.status == EXIT_INTERRUPTED


class Export:
    """One export that runs."""

    def __init__(self, exports: Exports, pid: int, log: Path) -> None:
        self._exports, self.pid, self._log = exports, pid, log
        self._begun = time.monotonic()

    def send(self, number: signal.Signals, *, to_all: bool) -> list[psutil.Process]:
        """Send it a signal, or that and all processes that it started; return these."""
        started: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            started = psutil.Process(self.pid).children(recursive=True)
            os.kill(self.pid, number)
        for process in started if to_all else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return started

    def wait(self, started: list[psutil.Process] | None = None) -> Ended:
        """Wait for its end, and that of processes that it had started."""
        status = self._exports.ask({"do": "wait", "pid": self.pid})
        seconds = time.monotonic() - self._begun
        return Ended(
            status=status,
            said=self._log.read_text(encoding="utf-8", errors="replace"),
            seconds=seconds,
            left_running=_still_running(started or []),
        )

    def has_ended(self, within: float) -> bool:
        """Whether it ends in time; it is not waited for."""
        return _until(lambda: _is_over(psutil.Process(self.pid)), within)


class Exports:
    """A server of exports; see ``server.py``."""

    def __init__(self, checkpoint: Path, work: Path) -> None:
        """Start the server, which is ready when it has traced the graph.

        Args:
            checkpoint: what is exported.
            work: a folder for what exports say.
        """
        self.checkpoint, self._work, self._count = checkpoint, work, 0
        self._is_ready = False
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "tramontane.torture.server", str(checkpoint)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, out: Path, recipe: Recipe, *, is_room_checked: bool = True) -> Export:
        """Begin an export, which may or may not look first how much room its disk has."""
        self._count += 1
        log = self._work / f"log-{self._count % 4}"
        arguments = ["export", str(self.checkpoint), "--out", str(out), "--no-validate"]
        request = {
            "do": "start",
            "arguments": [*arguments, *recipe.options],
            "log": str(log),
            "is_traced": recipe.is_traced,
            "is_room_checked": is_room_checked,
        }
        return Export(self, self.ask(request), log)

    def finish(self, out: Path, recipe: Recipe) -> Ended:
        """Run an export to its end, or for so long as none takes."""
        export = self.start(out, recipe)
        if not export.has_ended(_LONGEST_S):
            export.send(signal.SIGKILL, to_all=True)
        return export.wait()

    def ask(self, request: dict[str, object]) -> int:
        """Send a request and read its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        if not self._is_ready and self._server.stdout.readline() != "ready\n":
            raise ContractError("the server of exports did not start; its own words stand above")
        self._is_ready = True
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


@contextlib.contextmanager
def exports_of(checkpoint: Path, work: Path, *, count: int) -> Iterator[list[Exports]]:
    """Servers of exports of a checkpoint, as long as the block lasts."""
    servers: list[Exports] = []
    try:
        for number in range(count):
            folder = work / f"server-{number}"
            folder.mkdir()
            servers.append(Exports(checkpoint, folder))
        yield servers
    finally:
        for server in servers:
            server.close()


def _still_running(started: list[psutil.Process]) -> int:
    _until(lambda: all(map(_is_over, started)), LIMIT_S)
    left = [process for process in started if not _is_over(process)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return len(left)


def _is_over(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _until(is_so: Callable[[], bool], within: float) -> bool:
    end = time.monotonic() + within
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(_EVERY_S)
    return True
