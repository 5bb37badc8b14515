"""Stores the reference's results on disk, so that they are computed once.

One folder per sequence, named by the hash of all that decides its numbers: the checkpoint's files,
the architecture, the tokens, our code, and torch. It gets its name when it is complete; until then
it lies in a partial folder, from which an interrupted run is resumed. The oldest are removed when
all together exceed ``MOST_BYTES``. Each has our mark from the start; a folder without it is
neither counted nor removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from ...graphs.writing.own_folders import (
    MARK_FILE,
    free_bytes,
    is_free,
    is_marked,
    mark,
    target_of,
)
from ...runtime.durable import rename, sync_tree
from ...runtime.errors import ContractError, TramontaneError
from ...runtime.untrusted.fields import shown
from ...runtime.untrusted.json_text import read_object
from .stored_array import checksum, open_stored
from .unfinished import LOCK_FILE, STATE_FILE, Shapes, Unfinished, only_one, unwritable

SUB_FOLDER = "tramontane-reference"  # of a folder that holds other things too
MOST_BYTES = 16 << 30
_STORE, RUN = "the reference's work", "the reference's work on one sequence"
_ABANDONED_SECONDS = 24 * 3600
_PARTIAL = ".partial-"
_CHECKSUMS_FILE = "checksums.json"
_OURS = (STATE_FILE, f".{STATE_FILE}", LOCK_FILE, _CHECKSUMS_FILE)
Arrays = dict[str, np.ndarray]


def default_folder() -> Path:
    """The user's folder for what can be made again."""
    return Path(platformdirs.user_cache_dir("tramontane", appauthor=False)) / "reference"


def digest(parts: Mapping[str, Any]) -> str:
    """One name for all that decides the numbers."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def partial_name(keys: Iterable[str]) -> str:
    """The folder of these keys' runs until they are complete."""
    return f"{_PARTIAL}{digest({'keys': sorted(keys)})}"


class Store:
    """Arrays by key, on disk; read from there without being held in memory."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which need not exist yet; one with other things in it gets a sub-folder.

        Raises:
            ContractError: it cannot be made.
        """
        place = target_of(folder)
        is_own = is_free(place) or is_marked(place, _STORE) or folder == default_folder()
        self._compared: dict[Path, list[tuple[int, int, int]]] = {}
        self.folder = folder if is_own else folder / SUB_FOLDER
        try:
            mark(place if is_own else self.folder, _STORE)
        except OSError as error:
            raise ContractError(
                f"{folder}: cannot be created for the reference's results ({error}); name another "
                "folder with --store"
            ) from error

    def find(self, key: str, shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
        """The arrays of a key by name, mapped from their files; None where they are not kept.

        Where one is damaged, missing or of another shape, all are removed. Checksums are compared
        once in a process, and again where a file changed.
        """
        place = self.folder / key
        if not is_marked(place, RUN):
            return None
        try:
            arrays = self.read(key, shapes)
        except ContractError:  # removed by another run, or damaged
            _discard(place)
            return None
        with contextlib.suppress(OSError):  # another user's
            os.utime(place)
        return arrays

    def read(self, key: str, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """As ``find``, and nothing is removed.

        Raises:
            ContractError: an array is missing, damaged or of another shape.
        """
        place, arrays = self.folder / key, Arrays()
        try:
            for name, shape in shapes.items():
                arrays[name] = open_stored(place / f"{name}.npy", shape)
            self._compare_checksums(place, shapes)
        except (OSError, ValueError) as error:
            raise ContractError(
                f"{place}: damaged ({shown(str(error))}), expected what a run left; it is "
                "computed anew"
            ) from error
        return arrays

    def _compare_checksums(self, place: Path, names: Collection[str]) -> None:
        """Compare those of a key's arrays with what was noted when they were complete.

        Raises:
            OSError, ContractError: a file cannot be read.
            ValueError: an array changed.
        """
        paths = {name: place / f"{name}.npy" for name in names}
        stats = [path.stat() for path in paths.values()]
        states = [(found.st_ino, found.st_size, found.st_mtime_ns) for found in stats]
        if self._compared.get(place) == states:
            return
        noted = read_object(place / _CHECKSUMS_FILE)
        if noted != {name: checksum(path) for name, path in paths.items()}:
            raise ValueError("an array has another checksum")
        self._compared[place] = states

    @contextlib.contextmanager
    def adding(self, shapes: Shapes, *, by_layer: Collection[str] = ()) -> Iterator[Unfinished]:
        """Yield arrays to fill, float32; each key's take its name when the block succeeds.

        What an interrupted block filled is resumed by the next for the same keys.

        Args:
            shapes: of each array by its name, by key.
            by_layer: as in ``Unfinished``.

        Raises:
            ContractError: the disk has too little room, a key's name is taken, or the folder
                cannot be written to.
        """
        place = self.folder / partial_name(shapes)
        for name in (*shapes, place.name):
            if not is_free(self.folder / name) and not is_marked(self.folder / name, RUN):
                raise ContractError(
                    f"{self.folder / name}: exists and was not made by tramontane (no {MARK_FILE} "
                    "of ours in it), expected the name to be free; move it elsewhere, or name "
                    "another folder with --store"
                )
        mark(place, RUN)
        with only_one(place) as is_alone:
            if is_alone:
                with self._filled(place, shapes, by_layer) as unfinished:
                    yield unfinished
        if is_alone:
            _discard(place)
            return
        with self.scratch() as other, self._filled(other, shapes, by_layer) as unfinished:
            yield unfinished

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder for files that are removed at the end."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=_PARTIAL) as folder:
            mark(Path(folder), RUN)
            yield Path(folder)

    @contextlib.contextmanager
    def _filled(
        self, place: Path, shapes: Shapes, by_layer: Collection[str]
    ) -> Iterator[Unfinished]:
        """Yield arrays in a folder of ours; they take their names when the block succeeds."""
        needed = sum(4 * int(np.prod(shape)) for one in shapes.values() for shape in one.values())
        try:
            self._make_room(needed - _size(place), beside=place)
            yield (unfinished := self._unfinished(place, shapes, by_layer))
            unfinished.flush()
        except TramontaneError:  # what was filled may be wrong
            _discard(place)
            raise
        for key in shapes:
            try:
                _note_checksums(place / key, shapes[key])
                sync_tree(place / key)
                rename(place / key, self.folder / key)
            except OSError as error:
                if self.find(key, shapes[key]) is None:  # or another run was faster
                    raise unwritable(self.folder / key, error) from error

    def _unfinished(self, place: Path, shapes: Shapes, by_layer: Collection[str]) -> Unfinished:
        try:
            return Unfinished(place, shapes, kind=RUN, by_layer=by_layer)
        except OSError as error:
            raise unwritable(place, error) from error

    def _make_room(self, needed: int, *, beside: Path) -> None:
        own = [p for p in self.folder.iterdir() if p != beside and is_marked(p, RUN)]
        kept = []
        for path in sorted(own, key=_age_seconds, reverse=True):
            if not path.name.startswith("."):
                kept.append(path)
            elif _age_seconds(path) > _ABANDONED_SECONDS:  # by a killed run
                _discard(path)
        total = sum(_size(path) for path in kept)
        while kept and total + needed > MOST_BYTES:
            total -= _size(kept[0])
            _discard(kept.pop(0))
        free = free_bytes(self.folder)
        if free < needed:
            raise ContractError(
                f"--store {self.folder}: {free} bytes are free, the reference's logits and cache "
                f"take {needed}; name a folder on a larger disk"
            )


def _note_checksums(folder: Path, names: Collection[str]) -> None:
    """Write the checksums of a key's complete arrays beside them."""
    path = folder / _CHECKSUMS_FILE
    path.unlink(missing_ok=True)
    found = {name: checksum(folder / f"{name}.npy") for name in names}
    path.write_text(json.dumps(found), encoding="utf-8")


def _age_seconds(path: Path) -> float:
    """Seconds since a folder was changed; 0 where another run has just renamed or removed it."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _discard(folder: Path) -> None:
    """Remove our own files from a marked folder, and the folder where nothing else is in it."""
    with contextlib.suppress(OSError):  # another run may be removing it too
        for path in folder.iterdir():
            if is_marked(path, RUN):
                _discard(path)
            elif path.suffix == ".npy" or path.name in _OURS:
                with contextlib.suppress(OSError):  # a folder of that name
                    path.unlink()
        (folder / MARK_FILE).unlink()
        folder.rmdir()


def _size(folder: Path) -> int:
    """Bytes of the files of a folder, as far as no other run is removing it."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        for path in folder.rglob("*"):
            size += path.stat().st_size if path.is_file() else 0
    return size
