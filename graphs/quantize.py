"""How are weights packed into 8 bits, and what stays in float?

A matrix (N, K) is cut along K into blocks of 128, or of the largest smaller size that divides K.
Each block has one float32 scale; a weight is ``(code - 128) * scale`` with codes 1 to 255, so zero
is exact and a block's largest magnitude is met exactly. What no block size divides stays in float,
so that whole blocks are all that any reader of the codes, gathers included, has to handle.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir

from . import weights

BITS = 8
BLOCKS = (128, 64, 32, 16)  # sizes that the kernels take, the preferred first
ZERO_POINT = 128  # the code of 0: what onnxruntime assumes where no zero points are given
_LARGEST = 127


def block_for(columns: int) -> int | None:
    """The block size for rows of so many weights; None where none fits."""
    return next((size for size in BLOCKS if columns % size == 0), None)


def quantize_blocks(matrix: np.ndarray, *, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Round each weight to the nearest of its block's 255 steps.

    Args:
        matrix: (N, K) float32.
        block: weights that share a scale; divides K.

    Returns:
        codes (N, K / block, block) uint8 and scales (N, K / block) float32.

    Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits, for the layout.
    """
    blocks = matrix.reshape(len(matrix), -1, block)
    scales = np.abs(blocks).max(axis=2) / np.float32(_LARGEST)
    steps = np.rint(blocks / np.where(scales == 0, np.float32(1), scales)[:, :, None])
    return (steps + ZERO_POINT).astype(np.uint8), scales


def dequantize_blocks(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The (N, K) float32 matrix that codes and scales stand for."""
    steps = codes.astype(np.float32) - np.float32(ZERO_POINT)
    return np.asarray((steps * scales[:, :, None]).reshape(len(codes), -1))


def packed(matrix: ir.Value, *, name: str) -> Packed | None:
    """Two new initializers for one; None where no block size divides its rows.

    A tied matrix is packed once for each reader, by that reader's name; the writer sees that the
    bytes are equal.
    """
    block = block_for(weights.size_of(matrix)[1])
    return None if block is None else Packed(matrix, name=name, block=block)


class Packed:
    """An initializer in 8 bits: two new ones, whose numbers are computed when written."""

    def __init__(self, matrix: ir.Value, *, name: str, block: int) -> None:
        self.rows, self.columns = weights.size_of(matrix)
        self.block = block
        self.blocks = self.columns // block
        self.name = name
        # Codes and scales are written one after the other: quantize once for both.
        self._both = functools.partial(_quantize_once, matrix, block)

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
def _quantize_once(matrix: ir.Value, block: int) -> tuple[np.ndarray, np.ndarray]:
    return quantize_blocks(weights.read(matrix), block=block)
