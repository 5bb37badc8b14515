"""Brings files and folders to the disk, so that what has taken its name survives a power loss."""

from __future__ import annotations

import os
from pathlib import Path


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below a folder, and itself: what it holds before itself.

    Raises:
        OSError: the disk failed.
    """
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(place, name))
        sync_folder(Path(place))


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder, such as one that was just renamed.

    Raises:
        OSError: the disk failed.
    """
    if os.name != "nt":  # where folders cannot be opened, and renames are synced by the system
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
