"""Runs a command to its end, with a time limit, and ends what it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import Absent

_SHOWN_LINES = 4
_LIMIT_SECONDS = 1200  # of one command: a browser or an emulator may hang
_GRACE_SECONDS = 5  # after an interrupt, before the command is killed


def run(
    command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end; return what it wrote to standard output.

    Raises:
        Absent: no such command, or it failed; the message has the last lines that it printed.
    """
    words = [str(word) for word in command]
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise Absent(f"{words[0]}: {error.strerror}") from error
    with process:
        try:
            output, errors = process.communicate(timeout=_LIMIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            _end(process)
            shown = " ".join(words[:4])
            raise Absent(
                f"{shown}: has not ended after {_LIMIT_SECONDS} seconds, expected it to end "
                "sooner; run it alone to see where it stops, or repeat it on an idle machine"
            ) from error
        except BaseException:  # an interrupt reaches this process alone
            _end(process)
            raise
    if process.returncode:
        lines = (errors.strip() or output.strip()).splitlines()[-_SHOWN_LINES:]
        raise Absent(
            f"{' '.join(words[:4])}: exit status {process.returncode}; {' / '.join(lines)}"
        )
    return output


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and the processes that it started.

    It is interrupted first: a browser is in a process group of its own, and the program that
    controls it ends it when interrupted, but not when killed.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
