"""Round so that what a layer computes changes least, which calibration observes (GPTQ).

Weights are rounded one column after the other; the columns that are not rounded yet compensate the
error of each, as far as the layer's inputs correlate. Calibration does it
(``export/calibrate/gptq.py``), since the next layer's inputs depend on it; here its result is
looked up. The embedding, which multiplies nothing, and the head are rounded to nearest.
Source: GPTQ, arXiv:2210.17323.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ....runtime.errors import GraphError
from ...passes.pack_qkv import parts_of
from ..activation_ranges import Calibration
from ..codes import Blocks
from ..scheme import Scheme
from .method import Method, Rounder
from .round_to_nearest import METHOD as ROUND_TO_NEAREST
from .round_to_nearest import quantize

_OF_LAYERS = "layers."  # how the names of the matrices begin that calibration rounds


class Gptq(Method):
    """Needs the inputs of each matrix."""

    observes_activations = True
    rounds_in_calibration = True

    # A weight that makes up for the errors of others moves away from its own value, by several
    # steps where its input is small. That the whole matrix is rounded well is another check, of
    # what it computes.
    weight_errors: ClassVar[Mapping[int, float]] = {8: ROUND_TO_NEAREST.weight_errors[8], 4: 1.5}

    def rounder(self, calibration: Calibration | None) -> Rounder:
        """Looks up the layers' matrices, and rounds the others to nearest."""
        rounded = None if calibration is None else calibration.rounded

        def look_up(matrix: np.ndarray, scheme: Scheme, name: str) -> Blocks:
            if not name.startswith(_OF_LAYERS):
                return quantize(matrix, scheme)
            if rounded is None:
                raise GraphError(f"{name}: no calibration was given, expected one that rounded it")
            parts = [rounded.read(part, scheme) for part in parts_of(name)]
            return Blocks(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

        return look_up


METHOD = Gptq()
