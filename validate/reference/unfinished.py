"""The arrays of runs that are being computed, on disk: an interrupted computation is resumed.

A folder holds the arrays, a folder of them for each key, and ``state.npz``: how many layers are
done, and what the next one begins with. That file is replaced after each layer, once the arrays
are written; so a run that is killed loses one layer.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from ...graphs.writing.own_folders import mark
from ...runtime.durable import replace_file

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]  # of each array by its name, by key
Mapped = dict[str, "np.memmap[Any, Any]"]

STATE_FILE, LOCK_FILE = "state.npz", "lock"


class Unfinished:
    """Arrays to fill, layer by layer."""

    def __init__(self, folder: Path, shapes: Shapes, *, kind: str) -> None:
        """Make the arrays, or open those that an interrupted run left.

        Args:
            folder: marked as ours; no other process writes to it.
            shapes: of all arrays.
            kind: what the mark of each key's folder says.
        """
        self._folder = folder
        self.done = 0  # layers
        self.state: dict[str, np.ndarray] = {}  # what the next begins with
        with contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            self._resume(shapes)
        if not self.done:
            for key in shapes:
                mark(folder / key, kind)
        self.arrays: list[Mapped] = [
            {name: self._array(key, name, shape) for name, shape in sizes.items()}
            for key, sizes in shapes.items()
        ]

    def note(self, done: int, state: Mapping[str, np.ndarray]) -> None:
        """Note that so many layers are done: what they filled is on disk when this returns."""
        self.flush()
        part = self._folder / f".{STATE_FILE}"
        with part.open("wb") as file:
            np.savez(file, np.array([str(done), *state]), *state.values())
        replace_file(part, self._folder / STATE_FILE)

    def flush(self) -> None:
        """Write the arrays to disk."""
        for arrays in self.arrays:
            for array in arrays.values():
                array.flush()

    def _resume(self, shapes: Shapes) -> None:
        """Read where an earlier run stopped.

        Raises:
            OSError, ValueError, EOFError, KeyError, BadZipFile: there was none, or it is damaged.
        """
        for key, sizes in shapes.items():
            for name, shape in sizes.items():
                found = np.load(self._path(key, name), mmap_mode="r")
                if found.shape != tuple(shape):
                    raise ValueError(name)
        with (self._folder / STATE_FILE).open("rb") as file, np.load(file) as kept:
            (done, *names), *arrays = (kept[name] for name in kept.files)
        self.state = dict(zip(map(str, names), arrays, strict=True))
        self.done = int(done)

    def _path(self, key: str, name: str) -> Path:
        return self._folder / key / f"{name}.npy"

    def _array(self, key: str, name: str, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
        mode = "r+" if self.done else "w+"
        path = self._path(key, name)
        return np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=shape)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[bool]:
    """Yield whether this process alone may write to a folder; it may until the block ends."""
    lock = filelock.FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
