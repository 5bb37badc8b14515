"""Stores the reference's results on disk, so that they are computed once.

One folder per sequence, named by the hash of all that decides its numbers: the checkpoint's files,
the architecture, the tokens, our code, and torch. It gets its name when it is complete. The oldest
are removed when all together exceed ``MOST_BYTES``. Each has our mark from the start; a folder
without it is neither counted nor removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
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
from ...runtime.errors import ContractError

SUB_FOLDER = "tramontane-reference"  # of a folder that holds other things too
MOST_BYTES = 16 << 30
_STORE, _RUN = "the reference's work", "the reference's work on one sequence"
_ABANDONED_SECONDS = 24 * 3600
Arrays = dict[str, np.ndarray]
Mapped = dict[str, "np.memmap[Any, Any]"]


def default_folder() -> Path:
    """The user's folder for what can be made again."""
    return Path(platformdirs.user_cache_dir("tramontane", appauthor=False)) / "reference"


def digest(parts: Mapping[str, Any]) -> str:
    """One name for all that decides the numbers."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Store:
    """Arrays by key, on disk; read from there without being held in memory."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which need not exist yet; one with other things in it gets a sub-folder.

        Raises:
            ContractError: it cannot be made.
        """
        place = target_of(folder)
        is_own = is_free(place) or is_marked(place, _STORE) or folder == default_folder()
        self.folder = folder if is_own else folder / SUB_FOLDER
        try:
            mark(place if is_own else self.folder, _STORE)
        except OSError as error:
            raise ContractError(
                f"{folder}: cannot be created for the reference's results ({error}); name another "
                "folder with --store"
            ) from error

    def find(self, key: str, names: Collection[str]) -> Arrays | None:
        """The arrays of a key by name, mapped from their files; None where they are not kept."""
        place = self.folder / key
        if not is_marked(place, _RUN):
            return None
        try:
            arrays = {
                path.stem: np.load(path, mmap_mode="r") for path in sorted(place.glob("*.npy"))
            }
            os.utime(place)
        except (OSError, ValueError, EOFError):  # another run removed it, or a file is damaged
            _discard(place)
            return None
        return arrays if arrays.keys() == set(names) else None

    @contextlib.contextmanager
    def adding(
        self, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    ) -> Iterator[list[Mapped]]:
        """Yield arrays to fill, float32; each key's take its name when the block succeeds.

        Args:
            shapes: of each array by its name, by key.

        Raises:
            ContractError: the disk has too little room, or a key's name is taken.
        """
        for place in (self.folder / key for key in shapes):
            if not is_free(place) and not is_marked(place, _RUN):
                raise ContractError(
                    f"{place}: exists and was not made by tramontane (no {MARK_FILE} of ours in "
                    "it), expected the name to be free; move it elsewhere, or name another "
                    "folder with --store"
                )
        needed = sum(4 * int(np.prod(shape)) for one in shapes.values() for shape in one.values())
        self._make_room(needed)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".partial-") as staging:
            mark(Path(staging), _RUN)
            made = []
            for key, sizes in shapes.items():
                place = Path(staging) / key
                mark(place, _RUN)
                made.append({name: _new(place / f"{name}.npy", s) for name, s in sizes.items()})
            yield made
            for key, arrays in zip(shapes, made, strict=True):
                for array in arrays.values():
                    array.flush()
                with contextlib.suppress(OSError):  # another run was faster, with the same numbers
                    (Path(staging) / key).rename(self.folder / key)

    def _make_room(self, needed: int) -> None:
        own = [path for path in self.folder.iterdir() if is_marked(path, _RUN)]
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


def _age_seconds(path: Path) -> float:
    """Seconds since a folder was changed; 0 where another run has just renamed or removed it."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _new(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def _discard(folder: Path) -> None:
    """Remove our own files from a marked folder, and the folder where nothing else is in it."""
    with contextlib.suppress(OSError):  # another run may be removing it too
        for path in folder.iterdir():
            if is_marked(path, _RUN):
                _discard(path)
            elif path.suffix == ".npy":
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
