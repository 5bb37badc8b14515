"""The arrays of runs that are being computed, on disk: an interrupted computation is resumed.

A folder holds the arrays, a folder of them for each key, and ``state.npz``: how many layers are
done, checksums of what they filled, and what the next one begins with. That file is replaced after
each layer, once the arrays are written; so a run that is killed loses one layer. Where a checksum
differs, all is computed anew.
"""

from __future__ import annotations

import contextlib
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import filelock
import numpy as np

from ...graphs.writing.own_folders import is_marked, mark
from ...runtime.durable import replace_file
from ...runtime.errors import ContractError
from ...runtime.untrusted.files import open_regular
from . import stored_array

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]  # of each array by its name, by key
Mapped = dict[str, stored_array.Mapped]

STATE_FILE, LOCK_FILE = "state.npz", "lock"
# What NumPy and zipfile raise where a file is missing, damaged, or no archive of arrays.
_DAMAGE = (
    OSError,
    ValueError,  # UnicodeDecodeError too
    TypeError,
    LookupError,
    ArithmeticError,  # OverflowError
    RuntimeError,  # NotImplementedError too
    MemoryError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


def unwritable(place: Path, error: OSError) -> ContractError:
    """The error for a folder of the store that the system does not let us write to."""
    return ContractError(
        f"{place}: cannot be written ({error.strerror}), expected a folder for the reference's "
        "results; remove it, or name another folder with --store"
    )


class Unfinished:
    """Arrays to fill, layer by layer."""

    def __init__(
        self, folder: Path, shapes: Shapes, *, kind: str, by_layer: Collection[str] = ()
    ) -> None:
        """Make the arrays, or open those that an interrupted run left.

        Args:
            folder: marked as ours; no other process writes to it.
            shapes: of all arrays.
            kind: what the mark of each key's folder says.
            by_layer: names of arrays of which each layer fills one row; others are filled last.

        Raises:
            OSError: an array or a mark cannot be written.
        """
        self._folder, self._by_layer = folder, by_layer
        self._checksums: list[list[int]] = []  # by layer
        self.done = 0  # layers
        self.state: dict[str, np.ndarray] = {}  # what the next begins with
        self.arrays: list[Mapped] = []
        with contextlib.suppress(*_DAMAGE):
            self._resume(shapes, kind)
        if not self.done:
            for name in (STATE_FILE, f".{STATE_FILE}"):
                (folder / name).unlink(missing_ok=True)
            for key in shapes:
                if (folder / key).is_symlink():
                    (folder / key).unlink()
                mark(folder / key, kind)
            self.arrays = [
                {name: stored_array.make(self._path(key, name), n) for name, n in sizes.items()}
                for key, sizes in shapes.items()
            ]

    def note(self, done: int, state: Mapping[str, np.ndarray]) -> None:
        """Note that so many layers are done: what they filled is on disk when this returns."""
        self.flush()
        for layer in range(len(self._checksums), done):
            self._checksums.append(self._filled_by(layer, self.arrays))
        names, checksums = np.array([str(done), *state]), np.array(self._checksums, np.uint32)
        part = self._folder / f".{STATE_FILE}"
        with part.open("wb") as file:
            np.savez(file, names, checksums, *state.values())
        replace_file(part, self._folder / STATE_FILE)

    def flush(self) -> None:
        """Write the arrays to disk."""
        for arrays in self.arrays:
            for array in arrays.values():
                array.flush()

    def _resume(self, shapes: Shapes, kind: str) -> None:
        """Read where an earlier run stopped.

        Raises:
            _DAMAGE: there was none, or it is damaged.
        """
        for key in shapes:
            if not is_marked(self._folder / key, kind):
                raise ValueError(key)
        arrays = [
            {
                name: stored_array.open_stored(self._path(key, name), shape, is_writable=True)
                for name, shape in sizes.items()
            }
            for key, sizes in shapes.items()
        ]
        with (
            open(open_regular(self._folder / STATE_FILE), "rb") as file,
            zipfile.ZipFile(file),  # or np.load could take it for another kind of file
            np.load(file) as kept,
        ):
            (done, *names), noted, *state = (kept[name] for name in kept.files)
        numbers, checksums = int(done), noted.tolist()
        if numbers < 1 or numbers != len(checksums):
            raise ValueError(done)
        for layer, expected in enumerate(checksums):
            if self._filled_by(layer, arrays) != expected:
                raise ValueError(layer)
        self._checksums = checksums
        self.state = dict(zip(map(str, names), state, strict=True))
        self.arrays, self.done = arrays, numbers

    def _filled_by(self, layer: int, arrays: Sequence[Mapped]) -> list[int]:
        """Checksums of the rows that a layer fills."""
        return [
            zlib.crc32(array[layer])
            for each in arrays
            for name, array in each.items()
            if name in self._by_layer
        ]

    def _path(self, key: str, name: str) -> Path:
        return self._folder / key / f"{name}.npy"


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[bool]:
    """Yield whether this process alone may write to a folder; it may until the block ends.

    Raises:
        ContractError: the lock is no file that can be written.
    """
    lock = filelock.FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield True
    finally:
        lock.release()
