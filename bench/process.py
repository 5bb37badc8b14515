"""Runs a command and measures its seconds, its peak memory and the time of each line."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import IO

import psutil

_POLL_SECONDS = 0.05
_OURS = "tramontane: "  # before each line of an error, and its hints
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # unit of getrusage


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessUsage:
    """Result of one command."""

    status: int
    seconds: float
    cpu_seconds: float  # of the processor, over all threads and the processes that it waited for
    # Resident, pages of mapped files included: the larger of the system's count for the
    # largest process, and of the sampled sum over all processes.
    peak_bytes: int
    # The largest sampled sum without those pages, which the system can drop: Linux alone.
    own_peak_bytes: int
    lines: tuple[tuple[float, str], ...]  # of standard error, and seconds from the start
    output: str
    was_stopped: bool  # because it exceeded the memory limit

    @property
    def last_words(self) -> str:
        """The error in the end of standard error, its hints included; else the last line."""
        if not self.lines:
            return f"status {self.status}, and not a word"
        ours = takewhile(
            lambda line: line.startswith(_OURS), (line for _, line in self.lines[::-1])
        )
        found = [line.removeprefix(_OURS) for line in ours][::-1]
        return "; ".join(found) or self.lines[-1][1]


def run(command: Sequence[str | Path], *, limit_bytes: int) -> ProcessUsage:
    """Run a command, stopping it when its resident memory passes a limit."""
    start = time.monotonic()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None, "it is piped"
    assert process.stderr is not None, "it is piped"
    lines: list[tuple[float, str]] = []
    output: list[str] = []
    stderr, stdout = process.stderr, process.stdout
    readers = (
        threading.Thread(target=lambda: lines.extend(_timed(stderr, start))),
        threading.Thread(target=lambda: output.append(_whole(stdout))),
    )
    for reader in readers:
        reader.start()
    was_stopped, seen_bytes, own_bytes = False, 0, 0
    while True:
        done, code, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        resident, mapped = _resident(process.pid)
        seen_bytes, own_bytes = max(seen_bytes, resident), max(own_bytes, resident - mapped)
        if not was_stopped and seen_bytes > limit_bytes:
            for each in _family(process.pid):
                each.kill()
            was_stopped = True
        time.sleep(_POLL_SECONDS)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(code)
    for reader in readers:
        reader.join()
    own, kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, usage.ru_maxrss
    # A new process inherits its parent's count; a figure below that is meaningless.
    kept_bytes = kept * MAXRSS_BYTES if kept > own else 0
    return ProcessUsage(
        status=process.returncode,
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=max(kept_bytes, seen_bytes),
        own_peak_bytes=own_bytes,
        lines=tuple(lines),
        output="".join(output),
        was_stopped=was_stopped,
    )


def _resident(pid: int) -> tuple[int, int]:
    """Resident memory of a process and its descendants, and how much of it is mapped files.

    Source of the second: proc(5), statm, "shared": pages of files and of shared memory.
    """
    total, mapped = 0, 0
    for each in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = each.memory_info()
            total += memory.rss
            mapped += getattr(memory, "shared", 0)
    return total, mapped


def _family(pid: int) -> list[psutil.Process]:
    """A process and its descendants; empty if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _timed(stream: IO[str], start: float) -> list[tuple[float, str]]:
    with stream:
        return [(time.monotonic() - start, line.rstrip()) for line in stream]


def _whole(stream: IO[str]) -> str:
    with stream:
        return stream.read()
