"""Matrices that calibration has rounded already: a folder with one file each. (numpy only)"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.errors import GraphError
from .codes import Blocks
from .scheme import Scheme


@dataclass(frozen=True, slots=True)
class RoundedMatrices:
    """Blocks by the name of the parameter that was rounded."""

    folder: Path

    def write(self, name: str, blocks: Blocks, scheme: Scheme) -> None:
        """Keep the blocks of a matrix; a file has its name only when it is whole."""
        sizes = np.array([scheme.bits, scheme.block])
        write_whole(self._path(name), scheme=sizes, **blocks._asdict())

    def read(self, name: str, scheme: Scheme) -> Blocks:
        """The blocks of a matrix.

        Raises:
            GraphError: the matrix was not rounded, or in another scheme.
        """
        try:
            with np.load(self._path(name)) as arrays:
                bits, block = (int(size) for size in arrays["scheme"])
                blocks = Blocks(**{field: arrays[field] for field in Blocks._fields})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise GraphError(
                f"{name}: not found among the matrices that calibration rounded ({error}), "
                "expected all of the layers; export again with --no-resume"
            ) from error
        if (bits, block) != (scheme.bits, scheme.block):
            raise GraphError(
                f"{name}: calibration rounded it to {bits} bits in blocks of {block}, expected "
                f"{scheme.bits} bits in blocks of {scheme.block}; export again with --no-resume"
            )
        return blocks

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def write_whole(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as numpy's npz, in place of what was there; no half a file has the name."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
