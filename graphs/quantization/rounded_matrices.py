"""Matrices that calibration has rounded already: a folder with one file each. (numpy only)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.durable import replace_file
from ...runtime.errors import GraphError
from ...runtime.untrusted.arrays import read_arrays
from ...runtime.untrusted.fields import shown
from .codes import Blocks
from .scheme import Scheme

_REMEDY = "export again with --no-resume"
# Mean squared length of the outputs' difference, and of the outputs.
OutputSquares = tuple[float, float]


@dataclass(frozen=True, slots=True)
class RoundedMatrices:
    """Blocks by the name of the parameter that was rounded."""

    folder: Path

    def write(
        self, name: str, blocks: Blocks, scheme: Scheme, outputs: OutputSquares | None = None
    ) -> None:
        """Keep the blocks of a matrix; a file has its name only when it is whole.

        Args:
            name: of the parameter.
            blocks, scheme: as it was rounded.
            outputs: how far its outputs moved.
        """
        sizes, squares = np.array([scheme.bits, scheme.block]), np.array(outputs or ())
        write_whole(self._path(name), scheme=sizes, outputs=squares, **blocks._asdict())

    def output_error(self, names: Sequence[str]) -> float | None:
        """How far the outputs of one or more matrices moved, relative to their length.

        None where a matrix was not rounded here, or nothing was noted.
        """
        squares = []
        for name in names:
            if not self._path(name).is_file():
                return None
            squares.append(self._arrays(name)["outputs"])
        if not all(len(each) for each in squares):
            return None
        moved, whole = np.sum(squares, axis=0)
        return float(np.sqrt(moved / whole)) if whole else 0.0

    def read(self, name: str, scheme: Scheme) -> Blocks:
        """The blocks of a matrix.

        Raises:
            GraphError: the matrix was not rounded, or in another scheme.
        """
        arrays = self._arrays(name)
        found, expected = arrays["scheme"].tolist(), [scheme.bits, scheme.block]
        if found != expected:
            rounded, asked = (" bits in blocks of ".join(map(shown, n)) for n in (found, expected))
            raise GraphError(
                f"{name}: calibration rounded it to {rounded}, expected {asked}; {_REMEDY}"
            )
        return Blocks(**{field: arrays[field] for field in Blocks._fields})

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        """What was written of a matrix.

        Raises:
            GraphError: nothing was, or the file is damaged.
        """
        try:
            found = read_arrays(self._path(name), error=GraphError, remedy=_REMEDY)
            if missing := {"scheme", "outputs", *Blocks._fields} - found.keys():
                raise GraphError(f"{self._path(name)}: has no {min(missing)}; {_REMEDY}")
        except GraphError as error:
            raise GraphError(
                f"{name}: not found among the matrices that calibration rounded ({error})"
            ) from error
        return found

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def write_whole(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as numpy's npz, in place of what was there; no half a file has the name."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    replace_file(partial, path)
