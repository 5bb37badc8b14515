"""Where do other runtimes live, and how do they get there?

Each has an environment of its own below the user's cache, made once. What cannot be had is named,
never guessed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import filelock
import platformdirs

from ..export.progress import say

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
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
        run(["npm", "install", *quiet, *packages], cwd=folder)

    return made(home() / name, packages, make, saying=f"installing {name}")


def made(folder: Path, made_of: object, make: Callable[[Path], None], *, saying: str) -> Path:
    """A folder that is made once, and anew when it would become another.

    Args:
        folder: what is there and was not made whole of just this goes first.
        made_of: what tells one content from another.
        make: fills the folder, which it finds absent.
        saying: what is told of it meanwhile.
    """
    with alone(folder):
        if not is_ready(folder, made_of):
            say(saying)
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            mark_ready(folder, made_of)
    return folder


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let nobody else make or remove an environment meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        yield


def is_ready(folder: Path, made_of: object) -> bool:
    """Whether a folder was made whole, of just this."""
    path = folder / _READY
    return path.is_file() and path.read_text(encoding="utf-8") == _name_of(made_of)


def mark_ready(folder: Path, made_of: object) -> None:
    """Note that a folder is whole."""
    (folder / _READY).write_text(_name_of(made_of), encoding="utf-8")


def _name_of(made_of: object) -> str:
    return hashlib.sha256(repr(made_of).encode()).hexdigest()
