"""Which rule rounds activations on this processor, found by trying the kernel.

MatMulNBits rounds to the nearest of 255 steps everywhere, but processors compute the steps
differently: a number halfway between two steps goes up on one and down on another.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ...graphs.probing.matmuls import Matmul
from ...graphs.quantization.activation_rounding import STEPS, InBlocks, Rounding
from ...graphs.quantization.packing.dynamic_quantize import LARGEST
from ..figures import relative_errors
from ..graph_under_test import GraphUnderTest
from ..probe import open_product
from . import operators

_ROWS = 64  # of a probe
_SEED = 0x726F756E64


class KernelRounding:
    """The rounding of each multiplication of one graph."""

    def __init__(self, tested: GraphUnderTest) -> None:
        self._tested = tested
        self._known: dict[tuple[int, int], Rounding] = {}

    def of(self, linear: Matmul, matrix: np.ndarray) -> Rounding | None:
        """How its kernel rounds rows; None where it does not.

        Args:
            linear: the multiplication.
            matrix: (N, K) float32, by which it multiplies.
        """
        rounding = linear.rounding
        if not isinstance(rounding, InBlocks):
            return rounding
        kind = linear.bits, rounding.block
        if kind not in self._known:
            self._known[kind] = self._nearest(linear, rounding, matrix)
        return self._known[kind]

    def _nearest(self, linear: Matmul, rounding: InBlocks, matrix: np.ndarray) -> Rounding:
        """The rule whose products are nearest to the kernel's."""
        rows = halfway(_ROWS, matrix.shape[1], block=rounding.block)
        session = open_product(self._tested, linear)
        found = session.run(None, {linear.source: rows[None]})[0][0]
        rules = [dataclasses.replace(rounding, steps=steps) for steps in STEPS]

        def error(rule: InBlocks) -> float:
            return float(relative_errors(operators.multiply(rule(rows), matrix), found).max())

        return min(rules, key=error)


def halfway(rows: int, columns: int, *, block: int) -> np.ndarray:
    """Rows (rows, columns) float32 of numbers halfway between two steps, or a bit beside it.

    The first number of each block is its largest, which sets the step.
    """
    rng = np.random.default_rng(_SEED)
    blocks = -(-columns // block)
    largest = np.exp(rng.standard_normal((rows, blocks, 1), np.float32))
    steps = rng.integers(-126, 126, (rows, blocks, block)) + np.float32(0.5)
    found = np.float32(steps) * (largest / np.float32(LARGEST))
    found[:, :, :1] = largest
    return np.ascontiguousarray(found.reshape(rows, -1)[:, :columns], np.float32)
