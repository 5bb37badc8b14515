"""Folders below the user's cache that are made once, and again when their contents change.

A folder is removed only if it carries our mark.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import platformdirs

from ..console.progress import say
from ..graphs.writing.own_folders import MARK_FILE, is_free, is_marked, mark
from .errors import Absent

_KIND = "what other runtimes need"
_READY = ".ready"  # written last: the hash of what an environment was made of


def home() -> Path:
    """The folder that holds all of them; it can be deleted at any time."""
    return Path(platformdirs.user_cache_dir("tramontane", appauthor=False)) / "runtimes"


def make_once(folder: Path, made_of: object, make: Callable[[Path], None], *, saying: str) -> Path:
    """Make a folder unless it is there already, made of the same things; return it.

    Args:
        folder: where; what we made there of other things is removed first.
        made_of: everything that decides the contents; its ``repr`` is compared.
        make: fills the folder, which holds only our mark.
        saying: the line that is shown before.

    Raises:
        Absent: as ``clear``, or from ``make``.
    """
    with locked(folder):
        if not is_ready(folder, made_of):
            say(saying)
            clear(folder)
            make(folder)
            mark_ready(folder, made_of)
    return folder


def clear(folder: Path) -> None:
    """Make a folder that holds only our mark; what we made there before is removed.

    Raises:
        Absent: a folder or file that is not ours has that name.
    """
    if not is_free(folder) and not is_marked(folder, _KIND) and not _was_ready(folder):
        raise Absent(
            f"{folder}: exists and was not made by tramontane (no {MARK_FILE} of ours in it), "
            "expected the name to be free; move it elsewhere"
        )
    shutil.rmtree(folder, ignore_errors=True)
    mark(folder, _KIND)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from making or removing the folder meanwhile.

    Raises:
        Absent: a file that is not a lock has the lock's name; locking would empty it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_suffix(".lock")
    if lock.exists() and (not lock.is_file() or lock.stat().st_size):
        raise Absent(f"{lock}: is not a lock of ours, expected an empty file; move it elsewhere")
    with filelock.FileLock(lock):
        yield


def is_ready(folder: Path, made_of: object) -> bool:
    """Whether a folder is complete and was made of just these things."""
    path = folder / _READY
    return path.is_file() and path.read_text(encoding="utf-8") == _name_of(made_of)


def _was_ready(folder: Path) -> bool:
    """Whether an earlier version, which left no mark, completed the folder."""
    path = folder / _READY
    return path.is_file() and re.fullmatch("[0-9a-f]{64}", path.read_text("utf-8")) is not None


def mark_ready(folder: Path, made_of: object) -> None:
    """Note that a folder is complete, and what it was made of."""
    (folder / _READY).write_text(_name_of(made_of), encoding="utf-8")


def _name_of(made_of: object) -> str:
    return hashlib.sha256(repr(made_of).encode()).hexdigest()
