"""How kernels round activations to 8 bits before they multiply.

A multiplication reads rows of activations (T, K). Some kernels round each row to 8 bits, with a
scale for a block of it. Each class below gives the numbers that such a kernel multiplies by, so
that a reference can round as the artifact does. None of them depends on other rows: the same row
is rounded alike in a prefill and in a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .packing.dynamic_quantize import LARGEST

_SMALLEST = np.float32(1e-30)  # scale of a row of zeros in our own graphs
_LEFT_OVER = np.float32(2 * LARGEST)  # steps of the second rounding in one of the first


class Rounding(Protocol):
    """Rows of activations as a kernel rounds them."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(T, K) float32 to the (T, K) float32 that the kernel multiplies by."""


def _by_reciprocal_of_largest(x: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Multiply by 127 / largest: onnxruntime 1.32 on x86-64 and on arm64, found by trying."""
    factor = np.float32(LARGEST) / np.where(largest == 0, np.float32(1), largest)
    return np.asarray(np.rint(x * factor))


def _by_reciprocal_of_scale(x: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Multiply by 1 / scale."""
    scale = largest / np.float32(LARGEST)
    return np.asarray(np.rint(x * (np.float32(1) / np.where(scale == 0, np.float32(1), scale))))


def _by_division(x: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Divide by the scale."""
    scale = largest / np.float32(LARGEST)
    return np.asarray(np.rint(x / np.where(scale == 0, np.float32(1), scale)))


# Ways to find the nearest of 255 steps, the usual one first. They differ where a number lies
# between two steps, which is enough to show in a product.
Steps = Callable[[np.ndarray, np.ndarray], np.ndarray]
STEPS: tuple[Steps, ...] = (_by_reciprocal_of_largest, _by_reciprocal_of_scale, _by_division)


@dataclass(frozen=True, slots=True)
class InBlocks:
    """MatMulNBits with ``accuracy_level`` 4: each block of a row has a scale, largest / 127.

    Source: onnxruntime, onnxruntime/core/mlas/lib/sqnbitgemm_kernel_*.cpp, QuantizeARow_CompInt8.
    """

    block: int
    steps: Steps = STEPS[0]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(T, K) float32 to the (T, K) float32 that the kernel multiplies by."""
        T, K = x.shape
        cut = np.pad(x, ((0, 0), (0, -K % self.block))).reshape(T, -1, self.block)
        largest = np.abs(cut).max(axis=-1, keepdims=True)
        rounded = self.steps(cut, largest) * (largest / np.float32(LARGEST))
        return np.ascontiguousarray(rounded.reshape(T, -1)[:, :K], np.float32)


@dataclass(frozen=True, slots=True)
class ByPosition:
    """Our own graphs for bytes: each row, or each of its parts, has a scale, largest / 127."""

    width: int  # numbers that share a scale
    is_twice: bool = False  # what the first rounding leaves over is rounded as well

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(T, K) float32 to the (T, K) float32 that the kernel multiplies by."""
        cut = x.reshape(len(x), -1, self.width)
        largest = np.abs(cut).max(axis=-1, keepdims=True)
        scale = np.maximum(largest / np.float32(LARGEST), _SMALLEST)
        steps = cut / scale
        rounded = np.rint(steps)
        if self.is_twice:
            rounded += np.rint((steps - rounded) * _LEFT_OVER) / _LEFT_OVER
        return np.asarray((rounded * scale).reshape(x.shape), np.float32)
