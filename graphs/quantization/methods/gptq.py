"""Round so that what a layer computes changes least, which calibration observes (GPTQ).

Weights are rounded one column after the other; the columns that are not rounded yet compensate the
error of each, as far as the layer's inputs correlate, and make up for a part of what the rounding
of earlier layers did to these inputs. Calibration does it
(``export/calibrate/gptq.py``), since the next layer's inputs depend on it; here its result is
looked up. Calibration rounds matrices of layers alone.
Source: GPTQ, arXiv:2210.17323; GPTAQ, arXiv:2504.02692.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ....runtime.errors import GraphError
from ...passes.pack_qkv import parts_of
from ...weights import Matrix
from ..activation_ranges import Calibration
from ..codes import LARGEST, Blocks, steps_of
from ..scheme import Scheme
from .method import Method, Rounder


class Gptq(Method):
    """Needs the inputs of each matrix."""

    observes_activations = True
    rounds_in_calibration = True

    # A weight that makes up for the errors of others moves away from its own value, by several
    # steps where its input is small. That the whole matrix is rounded well is another check, of
    # what it computes. In 8 bits as many steps, which are shorter; in 2 bits there are but 3, and
    # a weight at one end of them may be rounded to the other.
    weight_errors: ClassVar[Mapping[int, float]] = {
        2: 2.0,
        4: 1.5,
        8: 1.5 * steps_of(4) / LARGEST,
    }

    def rounder(self, calibration: Calibration | None) -> Rounder:
        """Looks matrices up."""
        rounded = None if calibration is None else calibration.rounded

        def look_up(_matrix: Matrix, scheme: Scheme, name: str) -> Blocks:
            if rounded is None:
                raise GraphError(f"{name}: no calibration was given, expected one that rounded it")
            parts = [rounded.read(part, scheme) for part in parts_of(name)]
            return Blocks(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

        return look_up


METHOD = Gptq()
