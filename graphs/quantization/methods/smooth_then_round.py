"""Round to nearest, after activations are smoothed: channels made smaller, weights larger.

For recipes whose kernels round an activation with one scale for a position. What the rounding
costs a weight is the same as without smoothing: smoothing multiplies by powers of two, which is
exact.
"""

from __future__ import annotations

import onnx_ir as ir

from ....runtime.errors import GraphError
from ..activation_ranges import Calibration
from ..smooth_activations import SmoothActivations
from .round_to_nearest import RoundToNearest


class SmoothThenRound(RoundToNearest):
    """Needs the largest magnitude of each channel that a norm yields."""

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
