"""How far rounding moves each matrix, noted while matrices are written.

A file of lines beside what an export keeps, so that a resumed export has the figures of the
matrices that an earlier run wrote.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.untrusted.json_text import json_lines
from ..weights import Matrix
from .codes import Blocks, dequantize
from .methods.method import Rounder
from .scheme import Scheme

_SLICE_WEIGHTS = 1 << 20  # dequantized at once
_NAME = "rounding_errors.jsonl"


@dataclass(frozen=True, slots=True)
class RoundingErrors:
    """Relative errors by the name of a matrix in the graph, in a file of a folder."""

    folder: Path

    def noting(self, rounder: Rounder) -> Rounder:
        """A rounder that does the same, and notes what it did."""

        def round_and_note(matrix: Matrix, scheme: Scheme, name: str) -> Blocks:
            blocks = rounder(matrix, scheme, name)
            with (self.folder / _NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, relative_error(matrix, blocks, scheme)]) + "\n")
            return blocks

        return round_and_note

    def read(self) -> dict[str, float]:
        """What was noted, of each matrix last."""
        path = self.folder / _NAME
        if not path.is_file():
            return {}
        found: dict[str, float] = {}
        for line in json_lines(path):  # where an export was killed, the matrix is written again
            match line:
                case [str(name), float() | int() as error]:
                    found[name] = error
        return found


def relative_error(matrix: Matrix, blocks: Blocks, scheme: Scheme) -> float:
    """The length of the difference over that of the matrix (N, K); 0 of a matrix of zeros."""
    moved = whole = 0.0
    rows = max(1, _SLICE_WEIGHTS // matrix.shape[1])
    for start in range(0, len(matrix), rows):
        part = matrix[start : start + rows]
        some = Blocks(*(array[start : start + rows] for array in blocks))
        difference = dequantize(some, scheme, columns=matrix.shape[1]) - part
        moved += float(np.vdot(difference, difference))
        whole += float(np.vdot(part, part))
    return float(np.sqrt(moved / whole)) if whole else 0.0
