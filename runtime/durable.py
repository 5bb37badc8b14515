"""Brings files, folders and renamings to the disk, so that they survive a power loss in order."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# What systems of files answer that cannot sync a folder, such as some that lie in a network.
_NO_SYNC_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below a folder, and itself: what it holds before itself.

    Raises:
        OSError: the disk failed.
    """
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(place, name)
            if not path.is_fifo():  # opening one waits for a writer
                sync_file(path)
        sync_folder(Path(place))


def sync_file(path: Path) -> None:
    """Sync what a file holds.

    Raises:
        OSError: the disk failed.
    """
    _sync(path)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder, such as one that was just renamed.

    Raises:
        OSError: the disk failed.
    """
    if os.name == "nt":  # where folders cannot be opened, and renames are synced by the system
        return
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC_OF_FOLDERS:
            raise


def sync_names_of(path: Path) -> None:
    """Sync the folders above a path, from the nearest on, so that its own name is on the disk.

    It ends at a folder that may not be read; that was there before.

    Raises:
        OSError: the disk failed.
    """
    for folder in path.absolute().parents:
        try:
            sync_folder(folder)
        except PermissionError:
            break


def rename(path: Path, to: Path) -> None:
    """Rename, and bring that to the disk before anything that follows.

    Raises:
        OSError: the name is taken, or the disk failed.
    """
    path.rename(to)
    for folder in {to.parent: None, path.parent: None}:
        sync_folder(folder)


def replace_file(unfinished: Path, path: Path) -> None:
    """Give a finished file its name, in place of the file of that name; both on one disk.

    After a power loss the name has the old file or the new one, each whole.

    Raises:
        OSError: the name is that of a folder, a fifo or a device, or a link to one; or the disk
            failed.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "exists and is no regular file", str(path))
    sync_file(unfinished)
    os.replace(unfinished, path)
    sync_folder(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
