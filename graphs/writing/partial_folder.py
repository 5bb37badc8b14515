"""A folder written under a hidden name beside its final one: marked as ours, and locked.

``.NAME.partial`` lies beside ``NAME``, on the same disk, so that what is in it takes the name by
one rename when it is whole. It holds our mark, a lock, and what its user writes. One process at a
time has it. A killed run leaves it; the next run knows it by the mark, and resumes or removes what
is in it. A folder without the mark is refused and stays.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import filelock

from ...runtime.durable import sync_file, sync_folder
from ...runtime.errors import ContractError
from ...runtime.untrusted.files import refuse_impossible
from .own_folders import MARK_FILE, is_free, is_marked, mark, target_of

_LOCK = "lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialKind:
    """What is written in such a folder, for its mark and for messages."""

    content: str  # what the mark names, such as "an artifact that is not whole yet"
    made_by: str  # such as "an export"
    another: str  # such as "another export"
    advice: str  # such as "name another --out"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialFolder:
    """A marked folder whose lock this process has."""

    path: Path
    lock: filelock.BaseFileLock

    def release(self) -> None:
        """Keep the folder for the next run, and unlock it."""
        self.lock.release()

    def remove(self) -> None:
        """Remove the folder, its lock last: a run that finds no lock there begins to write.

        The mark goes when the rest is gone from the disk too: without it the rest would be
        nobody's.
        """
        content = list(self.path.iterdir()) if self.path.is_dir() else []
        for path in sorted(content, key=lambda path: (path.is_file(), path.name)):
            if path.name not in (_LOCK, MARK_FILE):
                _remove(path)
        with contextlib.suppress(OSError):  # what stays is what the next run removes
            sync_folder(self.path)
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock.release()
        if os.name == "nt":  # where an open file can't be removed
            shutil.rmtree(self.path, ignore_errors=True)


def partial_of(out: Path) -> Path:
    """Where a folder lies until it is whole: beside ``out``, or beside what a link leads to.

    Raises:
        ContractError: as ``target_of``, or its own name is too long.
    """
    target = target_of(out)
    partial = target.with_name(f".{target.name}.partial")
    if not os.path.islink(partial):  # which ``open_partial`` refuses, and says how to remove
        refuse_impossible(partial)  # its name is longer than that of ``out``
    return partial


def open_partial(out: Path, kind: PartialKind) -> PartialFolder:
    """Make the folder beside ``out``, or take the one that an earlier run left; lock and mark it.

    Raises:
        ContractError: it cannot be made, is not ours, or another run has the lock.
    """
    partial = partial_of(out)
    lock = filelock.FileLock(partial / _LOCK)
    try:
        if os.path.lexists(partial):
            _refuse_special(partial, kind)  # a link to an empty folder would be written through
        if not _is_ours(partial, kind):
            raise ContractError(
                f"{partial}: exists and was not made by {kind.made_by} (no {MARK_FILE} of ours in "
                f"it); move it elsewhere or {kind.advice}"
            )
        partial.mkdir(parents=True, exist_ok=True)
        for place, folders, names in os.walk(partial):
            for name in (*folders, *names):
                _refuse_special(Path(place, name), kind)
        lock.acquire(timeout=0)
        if not is_marked(partial, kind.content):
            mark(partial, kind.content)
        sync_file(partial / MARK_FILE)  # before the rest: without it the rest is nobody's
        sync_folder(partial)
    except filelock.Timeout as error:
        raise ContractError(
            f"{out}: {kind.another} is writing it; wait for it, or {kind.advice}"
        ) from error
    except OSError as error:
        raise ContractError(f"{out}: cannot be made ({error}); {kind.advice}") from error
    return PartialFolder(path=partial, lock=lock)


def wait_for_others(out: Path, *, most_s: float) -> None:
    """Wait while another run writes ``out``: for a moment, one whose parent was killed does.

    Args:
        out: the folder's final name.
        most_s: seconds to wait; then ``open_partial`` refuses.
    """
    lock = partial_of(out) / _LOCK
    if lock.is_file() and not (lock.is_symlink() or lock.parent.is_symlink()):
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(lock, timeout=most_s):
            pass


def _is_ours(partial: Path, kind: PartialKind) -> bool:
    """Whether a folder is absent, empty, marked, or of a run killed before it could mark it."""
    if is_free(partial) or is_marked(partial, kind.content):
        return True
    if partial.is_symlink() or not partial.is_dir():
        return False
    begun = (_LOCK, MARK_FILE)
    return all(path.name in begun and not path.stat().st_size for path in partial.iterdir())


def _refuse_special(path: Path, kind: PartialKind) -> None:
    """Refuse what an export never makes there: a link leads elsewhere, a fifo waits for a reader.

    Raises:
        ContractError: it is neither a regular file nor a folder.
    """
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    found = f"a link to {os.readlink(path)}" if stat.S_ISLNK(mode) else "a fifo, socket or device"
    raise ContractError(
        f"{path}: is {found}, expected only files and folders of {kind.made_by} there; remove it "
        f"(rm {shlex.quote(str(path))})"
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
