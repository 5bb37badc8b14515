"""Where is what the reference made kept, so that it is made once?

One folder a sequence, named by the hash of all that decides its numbers: the checkpoint's files,
the architecture, the tokens, our code, and torch. It takes its name when it is whole. The oldest
go when all together take more than ``MOST_BYTES``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from ..errors import ContractError

MOST_BYTES = 16 << 30
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
        """Use a folder, which need not exist yet.

        Raises:
            ContractError: it cannot be made.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ContractError(
                f"{folder}: cannot be made to keep the reference's work ({error}); name another "
                "folder with --store"
            ) from error

    def find(self, key: str, names: Collection[str]) -> Arrays | None:
        """The arrays of a key by name, mapped from their files; None where they are not kept."""
        place = self.folder / key
        try:
            arrays = {
                path.stem: np.load(path, mmap_mode="r") for path in sorted(place.glob("*.npy"))
            }
            os.utime(place)
        except (OSError, ValueError, EOFError):  # another run removed it, or a file is damaged
            shutil.rmtree(place, ignore_errors=True)
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
            ContractError: the disk has too little room.
        """
        needed = sum(4 * int(np.prod(shape)) for one in shapes.values() for shape in one.values())
        self._make_room(needed)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".partial-") as staging:
            made = []
            for key, sizes in shapes.items():
                place = Path(staging) / key
                place.mkdir()
                made.append({name: _new(place / f"{name}.npy", s) for name, s in sizes.items()})
            yield made
            for key, arrays in zip(shapes, made, strict=True):
                for array in arrays.values():
                    array.flush()
                with contextlib.suppress(OSError):  # another run was faster: its numbers are ours
                    (Path(staging) / key).rename(self.folder / key)

    def _make_room(self, needed: int) -> None:
        for left in self.folder.glob(".partial-*"):  # by runs that were killed
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        kept = sorted(
            (path for path in self.folder.iterdir() if not path.name.startswith(".")),
            key=lambda path: path.stat().st_mtime,
        )
        total = sum(_size(path) for path in kept)
        while kept and total + needed > MOST_BYTES:
            total -= _size(kept[0])
            shutil.rmtree(kept.pop(0), ignore_errors=True)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise ContractError(
                f"--store {self.folder}: {free} bytes are free, the reference's logits and cache "
                f"take {needed}; name a folder on a larger disk"
            )


def _new(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
