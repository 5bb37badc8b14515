"""How are weights packed into 8 bits, and what stays in float?

A matrix (N, K) is cut along K into blocks of 128. Each block has one float32 scale; a weight is
``(code - 128) * scale`` with codes 1 to 255, so zero is exact and a block's largest magnitude is
met exactly. A K that 128 does not divide is padded with zeros, which add nothing.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx_ir as ir

from . import weights

BITS = 8
BLOCK = 128
ZERO_POINT = 128  # the code of 0: what onnxruntime assumes where no zero points are given
_LARGEST = 127


def quantize_blocks(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round each weight to the nearest of its block's 255 steps.

    Args:
        matrix: (N, K) float32.

    Returns:
        codes (N, ceil(K / 128), 128) uint8 and scales (N, ceil(K / 128)) float32.

    Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits, for the layout.
    """
    N, K = matrix.shape
    blocks = math.ceil(K / BLOCK)
    padded = np.zeros((N, blocks * BLOCK), dtype=np.float32)
    padded[:, :K] = matrix
    padded = padded.reshape(N, blocks, BLOCK)
    scales = np.abs(padded).max(axis=2) / np.float32(_LARGEST)
    steps = np.rint(padded / np.where(scales == 0, np.float32(1), scales)[:, :, None])
    return (steps + ZERO_POINT).astype(np.uint8), scales


def dequantize_blocks(codes: np.ndarray, scales: np.ndarray, *, columns: int) -> np.ndarray:
    """The (N, columns) float32 matrix that codes and scales stand for."""
    steps = codes.astype(np.float32) - np.float32(ZERO_POINT)
    return np.asarray((steps * scales[:, :, None]).reshape(len(codes), -1)[:, :columns])


class Packed:
    """An initializer in 8 bits: two new ones, whose numbers are computed when written."""

    def __init__(self, matrix: ir.Value) -> None:
        self.rows, self.columns = weights.size_of(matrix)
        self.blocks = math.ceil(self.columns / BLOCK)
        self.name = str(matrix.name)
        # Codes and scales are written one after the other: quantize once for both.
        self._both = functools.partial(_quantize_once, matrix)

    def codes(self, shape: tuple[int, ...]) -> ir.Value:
        """The codes, in a shape of as many elements: uint8."""
        return weights.weight(
            f"{self.name}.codes",
            lambda: self._both()[0].reshape(shape),
            shape=shape,
            dtype=ir.DataType.UINT8,
        )

    def scales(self) -> ir.Value:
        """(N, blocks) float32."""
        return weights.weight(
            f"{self.name}.scales", lambda: self._both()[1], shape=(self.rows, self.blocks)
        )


@functools.lru_cache(maxsize=1)
def _quantize_once(matrix: ir.Value) -> tuple[np.ndarray, np.ndarray]:
    return quantize_blocks(weights.read(matrix))
