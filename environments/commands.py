"""Runs a command to its end, with limits on its time and its output, and ends what it started."""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..runtime.errors import ContractError, printable
from ..runtime.sizes import format_bytes
from ..runtime.untrusted.fields import shown
from ..runtime.untrusted.json_text import parse_object
from .errors import Absent

LIMIT_S = 1200.0  # of one command: a browser or an emulator may hang
LONG_LIMIT_S = 4 * 3600.0  # where a model is of any size, or other people's code is compiled
MOST_BYTES = 64 << 20  # of standard output
_TAIL_BYTES = 64 << 10  # of standard error: only its end is printed
_PIECE_BYTES = 1 << 16
_SHOWN_LINES, _SHOWN_WORDS = 4, 4
_SHOWN = 2000  # characters
_GRACE_SECONDS = 5  # after an interrupt, before the command is killed


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> str:
    """Run a command to its end; return what it wrote to standard output.

    Args:
        command: the program and its arguments.
        cwd: where it runs; None: here.
        env: variables beside those of this process.
        limit_s: how long it may take.

    Raises:
        Absent: no such command, it failed, or it took too long or wrote too much; the message
            has the last lines that it printed.
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
            start_new_session=True,
        )
    except OSError as error:
        raise Absent(f"{words[0]}: {error.strerror}") from error
    name = " ".join(words[:_SHOWN_WORDS])
    with process:
        try:
            output, errors = _outputs(process, name, limit_s=limit_s)
        except BaseException:  # an interrupt reaches this process alone
            _end(process)
            raise
    if process.returncode:
        lines = (errors.strip() or output.strip()).splitlines()[-_SHOWN_LINES:]
        tail = printable(" / ".join(lines), most=_SHOWN)
        raise Absent(f"{name}: exit status {process.returncode}; {tail}")
    return output


def answer(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> dict[str, Any]:
    """Run a command whose last line is a JSON object; return that.

    Raises:
        Absent: as ``run``, or the last line is none.
    """
    name = " ".join(str(word) for word in command[:_SHOWN_WORDS])
    said = run(command, env=env, limit_s=limit_s)
    last = said.strip().split("\n")[-1]  # a text in it may hold other line breaks
    try:
        return parse_object(last.encode(), what="its last line")
    except ContractError as error:
        raise Absent(
            f"{name}: its last line is no JSON object: {shown(last)}, expected its answer"
        ) from error


def _outputs(process: subprocess.Popen[bytes], name: str, *, limit_s: float) -> tuple[str, str]:
    """Standard output, and the end of standard error, when the command has ended.

    Raises:
        Absent: it takes too long, or writes too much.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    end = time.monotonic() + limit_s
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as waiting:
        for pipe, kept in ((process.stdout, output), (process.stderr, errors)):
            waiting.register(pipe, selectors.EVENT_READ, kept)
        while waiting.get_map():
            if (left := end - time.monotonic()) <= 0:
                raise _late(name, limit_s)
            for ready, _ in waiting.select(left):
                piece = os.read(ready.fd, _PIECE_BYTES)
                ready.data.extend(piece)
                if not piece:
                    waiting.unregister(ready.fileobj)
            del errors[:-_TAIL_BYTES]
            if len(output) > MOST_BYTES:
                raise Absent(
                    f"{name}: wrote more than {format_bytes(MOST_BYTES)} to standard output, "
                    "expected less; run it alone to see what it writes"
                )
    try:
        process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise _late(name, limit_s) from error
    return _text(output), _text(errors)


def _text(content: bytes | bytearray) -> str:
    stream: IO[bytes] = io.BytesIO(content)
    return io.TextIOWrapper(stream, encoding="utf-8", errors="replace").read()


def _late(name: str, limit_s: float) -> Absent:
    return Absent(
        f"{name}: has not ended after {limit_s:g} seconds, expected it to end sooner; run it "
        "alone to see where it stops, or repeat it on an idle machine"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and the processes that it started.

    It is interrupted first: a browser is in a process group of its own, and the program that
    controls it ends it when interrupted, but not when killed.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
