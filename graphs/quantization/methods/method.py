"""What a quantization method is: what it observes, how it rounds, and which error it may make.

A method is a module of this folder that holds it as ``METHOD``; ``all_methods.py`` lists them, and
the lines of recipes name them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...weights import Matrix
    from ..activation_ranges import Calibration
    from ..codes import Blocks
    from ..scheme import Scheme

# Rounds a matrix (N, K) float32 to this scheme; its name is the graph's. Two calls with one
# matrix yield the same blocks. Of a large one, rows are computed when a slice of it is taken.
Rounder = Callable[["Matrix", "Scheme", str], "Blocks"]


class Method(abc.ABC):
    """How weights are rounded."""

    # Whether it must know the largest magnitudes of activations: the export calibrates first.
    observes_activations: bool = False
    # Whether calibration itself rounds the layers' matrices: each for the inputs that it gets from
    # the matrices before it, rounded already.
    rounds_in_calibration: bool = False
    # Whether it divides channels of norms by powers of two, and multiplies the weights that read
    # them: the parity gate then compares both up to such powers.
    smooths_activations: bool = False
    # By bits: the bound on one weight's error, relative to the largest weight of its block. The
    # parity gate holds every matrix to it.
    weight_errors: ClassVar[Mapping[int, float]]

    def passes(
        self,
        calibration: Calibration | None,  # noqa: ARG002 - for methods that observe
    ) -> list[ir.passes.PassBase]:
        """Passes that change weights in float before they are rounded."""
        return []

    @abc.abstractmethod
    def rounder(self, calibration: Calibration | None) -> Rounder:
        """The function that rounds each matrix of one export.

        Args:
            calibration: what was observed; None where the method observes nothing.
        """
