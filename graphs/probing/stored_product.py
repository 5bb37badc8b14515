"""A matmul of a graph whose matrix is stored, and the matrix by the operator's definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..quantization.codes import Blocks, dequantize, unpack_codes
from ..quantization.scheme import BITS, Scheme

# A serialized graph whose weights stay in the files beside the original.
Serialized = bytes

_Operands = Mapping[int, np.ndarray]  # by the place of the input


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredProduct:
    """A node that multiplies activations by what is stored."""

    operator: str
    source: str  # its activations
    attributes: Mapping[str, Any]
    slots: tuple[int, ...]  # its other inputs, by their places
    operands: Serialized  # a graph without inputs that gives these, in that order

    def matrix(self, operands: Sequence[np.ndarray], columns: int) -> np.ndarray | None:
        """The matrix (N, K) float32, K being ``columns``; None if the operator is not known here.

        Args:
            operands: what the graph ``operands`` gave.
            columns: of the matrix.
        """
        decode = _DECODERS.get(self.operator)
        given = dict(zip(self.slots, operands, strict=True))
        return None if decode is None else decode(self.attributes, given, columns)


def _of_matmul(
    attributes: Mapping[str, Any],  # noqa: ARG001 - it has none
    given: _Operands,
    columns: int,
) -> np.ndarray | None:
    matrix = given.get(1, np.zeros(0))
    if matrix.ndim != 2 or len(matrix) != columns or matrix.dtype != np.float32:
        return None
    return np.ascontiguousarray(matrix.T)


def _of_blocks(attributes: Mapping[str, Any], given: _Operands, columns: int) -> np.ndarray | None:
    """MatMulNBits. Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits."""
    bits, block = attributes.get("bits", 4), attributes["block_size"]
    codes, scales, zero_points = given.get(1), given.get(2), given.get(3)
    if codes is None or scales is None or not given.keys() <= {1, 2, 3} or bits not in BITS:
        return None
    rows, blocks = attributes["N"], -(-columns // block)
    if zero_points is None:
        zero_points = np.full((rows, blocks), 1 << (bits - 1), np.uint8)
    elif zero_points.dtype == np.uint8:
        zero_points = unpack_codes(zero_points.reshape(rows, -1), bits=bits)[:, :blocks]
    parts = Blocks(
        codes=codes.reshape(rows, blocks, -1),
        scales=scales.reshape(rows, blocks),
        zero_points=zero_points.reshape(rows, blocks),
    )
    return dequantize(parts, Scheme(bits=bits, block=block), columns=columns)


_DECODERS: dict[str, Callable[[Mapping[str, Any], _Operands, int], np.ndarray | None]] = {
    "MatMul": _of_matmul,
    "MatMulNBits": _of_blocks,
}
