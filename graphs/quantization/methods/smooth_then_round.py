"""Round to nearest, after activations are smoothed: channels made smaller, weights larger.

For kernels that round activations too. What the rounding of a weight costs it, relative to the
largest of its block, is bounded as without smoothing: powers of two multiply exactly.
"""

from __future__ import annotations

import onnx_ir as ir

from ....runtime.errors import GraphError
from ..activation_ranges import Calibration
from ..smooth_activations import SmoothActivations
from .round_to_nearest import RoundToNearest


class SmoothThenRound(RoundToNearest):
    """Needs divisors, which calibration chooses for the inputs that it observes."""

    observes_activations = True
    smooths_activations = True

    def passes(self, calibration: Calibration | None) -> list[ir.passes.PassBase]:
        """Smoothing, by the calibration.

        Raises:
            GraphError: there is no calibration.
        """
        if calibration is None:
            raise GraphError("smoothing: no calibration was given, expected the activations'")
        return [SmoothActivations(calibration)]


METHOD = SmoothThenRound()
