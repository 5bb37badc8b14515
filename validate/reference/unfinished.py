"""The arrays of runs that are being computed, on disk: an interrupted computation is resumed.

A folder holds the arrays, a folder of them for each key, and ``state.npz``: how many layers are
done, checksums of what they filled, and what the next one begins with. That file is replaced after
each layer, once the arrays are written; so a run that is killed loses one layer. Where a checksum
differs, all is computed anew.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import filelock
import numpy as np

from ...graphs.writing.own_folders import is_marked, mark
from ...runtime.durable import replace_file
from ...runtime.errors import ContractError
from ...runtime.untrusted.arrays import read_arrays
from ...runtime.untrusted.fields import shown
from . import stored_array

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]  # of each array by its name, by key
Mapped = dict[str, stored_array.Mapped]

STATE_FILE, LOCK_FILE = "state.npz", "lock"


def unwritable(place: Path, error: OSError) -> ContractError:
    """The error for a folder of the store that the system does not let us write to."""
    return ContractError(
        f"{place}: cannot be written ({error.strerror}), expected a folder for the reference's "
        "results; remove it, or name another folder with --store"
    )


class Progress(NamedTuple):
    """How far a run came; nothing is done yet."""

    done: int = 0  # layers
    state: Mapping[str, np.ndarray] = MappingProxyType({})  # what the next begins with
    arrays: Sequence[Mapped] = ()
    checksums: Sequence[list[int]] = ()  # by layer


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
        try:
            progress = read_progress(folder, shapes, kind=kind, by_layer=by_layer)
        except ContractError:  # none or damaged: all is computed anew
            progress = Progress()
        self.done, self.state = progress.done, progress.state
        self.arrays, self._checksums = list(progress.arrays), list(progress.checksums)
        if not self.done:
            for name in (STATE_FILE, f".{STATE_FILE}"):
                (folder / name).unlink(missing_ok=True)
            for key in shapes:
                if (folder / key).is_symlink():
                    (folder / key).unlink()
                mark(folder / key, kind)
            self.arrays = [
                {name: stored_array.make(_path(folder, key, name), n) for name, n in sizes.items()}
                for key, sizes in shapes.items()
            ]

    def note(self, done: int, state: Mapping[str, np.ndarray]) -> None:
        """Note that so many layers are done: what they filled is on disk when this returns."""
        self.flush()
        for layer in range(len(self._checksums), done):
            self._checksums.append(_filled_by(layer, self.arrays, self._by_layer))
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


def read_progress(
    folder: Path, shapes: Shapes, *, kind: str, by_layer: Collection[str]
) -> Progress:
    """How far an interrupted run came, and what it left; the arguments are ``Unfinished``'s.

    Raises:
        ContractError: there was none, or a file of it is damaged.
    """
    try:
        return _progress(folder, shapes, kind=kind, by_layer=by_layer)
    except (OSError, ValueError, TypeError, LookupError) as error:  # of an array, or edited
        raise ContractError(
            f"{folder}: damaged, or not begun ({shown(str(error))}), expected what an interrupted "
            "run left; it is computed anew"
        ) from error


def _progress(folder: Path, shapes: Shapes, *, kind: str, by_layer: Collection[str]) -> Progress:
    for key in shapes:
        if not is_marked(folder / key, kind):
            raise ValueError(f"{key} has no mark of ours")
    arrays = [
        {
            name: stored_array.open_stored(_path(folder, key, name), shape, is_writable=True)
            for name, shape in sizes.items()
        }
        for key, sizes in shapes.items()
    ]
    (noted, *names), sums, *values = read_arrays(folder / STATE_FILE).values()
    done, checksums = int(noted), sums.tolist()
    if done < 1 or done != len(checksums):
        raise ValueError(f"{done} layers, and checksums of {len(checksums)}")
    for layer, expected in enumerate(checksums):
        if _filled_by(layer, arrays, by_layer) != expected:
            raise ValueError(f"layer {layer} has another checksum")
    state = dict(zip(map(str, names), values, strict=True))
    return Progress(done=done, state=state, arrays=arrays, checksums=checksums)


def _filled_by(layer: int, arrays: Sequence[Mapped], by_layer: Collection[str]) -> list[int]:
    """Checksums of the rows that a layer fills."""
    return [
        zlib.crc32(array[layer])
        for each in arrays
        for name, array in each.items()
        if name in by_layer
    ]


def _path(folder: Path, key: str, name: str) -> Path:
    return folder / key / f"{name}.npy"


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
