"""Environments of other runtimes: each has one of its own below the user's cache, made once.

What cannot be had is named, never guessed. A folder is removed only where it carries our mark.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import filelock
import platformdirs

from ..console.progress import say
from ..graphs.writing.own_folders import MARK_FILE, is_free, is_marked, mark

_KIND = "what other runtimes need"
_READY = ".ready"  # written last: names what an environment was made of
_SHOWN_LINES = 4
_LIMIT_SECONDS = 1200  # of one command: a browser or an emulator may hang
_GRACE_SECONDS = 5  # to end what it started, when it is interrupted


class Absent(Exception):  # noqa: N818 - a state, not an error
    """A runtime that cannot be had here; the message says what was tried and what came of it."""


def home() -> Path:
    """The folder below which all of them live; it can be deleted at any time."""
    return Path(platformdirs.user_cache_dir("tramontane", appauthor=False)) / "runtimes"


def run(
    command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end; return what it wrote to standard output.

    Raises:
        Absent: no such command, or it failed; with the last lines that it said.
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
            output, told = process.communicate(timeout=_LIMIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            _end(process)
            shown = " ".join(words[:4])
            raise Absent(f"{shown}: no end after {_LIMIT_SECONDS} seconds") from error
        except BaseException:  # whoever waits here is interrupted, and the command is not
            _end(process)
            raise
    if process.returncode:
        said = (told.strip() or output.strip()).splitlines()[-_SHOWN_LINES:]
        raise Absent(
            f"{' '.join(words[:4])}: exit status {process.returncode}; {' / '.join(said)}"
        )
    return output


def _python_in(folder: Path) -> Path:
    return folder / "bin" / "python"


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and what it started.

    A browser is in a group of its own. Whoever leads it ends it when interrupted, and would leave
    it when killed.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)


def python_with(name: str, *steps: Sequence[str]) -> Path:
    """The Python of an environment; each step's requirements are installed by one pip.

    Raises:
        Absent: pip could not install them.
    """

    def make(folder: Path) -> None:
        run([sys.executable, "-m", "venv", folder])
        for requirements in steps:
            run([_python_in(folder), "-m", "pip", "install", "--quiet", *requirements])

    made_of = (sys.version, steps)
    return _python_in(made(home() / name, made_of, make, saying=f"installing {name}"))


def node_with(name: str, packages: Sequence[str]) -> Path:
    """A folder with Node packages, installed without their scripts.

    Raises:
        Absent: no npm, or it could not install them.
    """
    for program in ("npm", "node"):
        if shutil.which(program) is None:
            raise Absent(f"{program}: not on PATH")

    def make(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
        run(["npm", "install", *quiet, *packages], cwd=folder)

    return made(home() / name, packages, make, saying=f"installing {name}")


def made(folder: Path, made_of: object, make: Callable[[Path], None], *, saying: str) -> Path:
    """A folder that is made once, and anew when it would become another.

    Args:
        folder: what we made there before, and not of just this, is removed first.
        made_of: what tells one content from another.
        make: fills the folder, which holds nothing but our mark.
        saying: what is shown meanwhile.

    Raises:
        Absent: as ``clear``, or from ``make``.
    """
    with alone(folder):
        if not is_ready(folder, made_of):
            say(saying)
            clear(folder)
            make(folder)
            mark_ready(folder, made_of)
    return folder


def clear(folder: Path) -> None:
    """Make a folder that holds nothing but our mark; what we made there before is removed.

    Raises:
        Absent: something else than ours has that name.
    """
    if not is_free(folder) and not is_marked(folder, _KIND) and not _was_ready(folder):
        raise Absent(
            f"{folder}: exists and was not made by tramontane (no {MARK_FILE} of ours in it), "
            "expected the name to be free; move it elsewhere"
        )
    shutil.rmtree(folder, ignore_errors=True)
    mark(folder, _KIND)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other process make or remove an environment meanwhile.

    Raises:
        Absent: the lock's name is another file's, which locking would empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_suffix(".lock")
    if lock.exists() and (not lock.is_file() or lock.stat().st_size):
        raise Absent(f"{lock}: is not a lock of ours, expected an empty file; move it elsewhere")
    with filelock.FileLock(lock):
        yield


def is_ready(folder: Path, made_of: object) -> bool:
    """Whether a folder was made whole, of just this."""
    path = folder / _READY
    return path.is_file() and path.read_text(encoding="utf-8") == _name_of(made_of)


def _was_ready(folder: Path) -> bool:
    """Whether an earlier version, which left no mark, made a folder whole."""
    path = folder / _READY
    return path.is_file() and re.fullmatch("[0-9a-f]{64}", path.read_text("utf-8")) is not None


def mark_ready(folder: Path, made_of: object) -> None:
    """Note that a folder is whole."""
    (folder / _READY).write_text(_name_of(made_of), encoding="utf-8")


def _name_of(made_of: object) -> str:
    return hashlib.sha256(repr(made_of).encode()).hexdigest()
