"""Pack matrices into 8 bits with standard operators.

Before:  MatMul(x, Transpose(weight)) and Gather(weight, ids)
After:   MatMul(x, Transpose(DequantizeLinear(codes, scales, 128)))
         and DequantizeLinear(Gather(codes, ids), Gather(scales, ids), 128)
Legal within the rounding of the weights, at most half a step of their block; a block never
crosses a row, so gathering before or after unpacking yields the same numbers.
Source: ONNX operator DequantizeLinear, opset 21, blocked.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from . import quantize, weights
from .linear import Linear, replace_node
from .pack_matrices import PackMatrices


class PackForPortable(PackMatrices):
    """Every matrix that blocks fit, unpacked by DequantizeLinear where it is read."""

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: quantize.Packed) -> None:
        """Unpack the weight in front of its transpose."""
        tape = ir.tape.Tape()
        parts = _registered(graph, matrix)
        unpacked = tape.op("DequantizeLinear", parts, {"axis": 1, "block_size": matrix.block})
        graph.insert_before(layer.transpose, list(tape.nodes))
        layer.transpose.replace_input_with(0, unpacked)

    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: quantize.Packed) -> None:
        """Gather codes, scales and zero points, then unpack the rows."""
        tape = ir.tape.Tape()
        parts, ids = _registered(graph, matrix), gather.inputs[1]
        rows = [tape.op("Gather", [part, ids], {"axis": 0}) for part in parts]
        unpacked = tape.op("DequantizeLinear", rows, {"axis": -1, "block_size": matrix.block})
        replace_node(graph, gather, list(tape.nodes), (unpacked,))


def _registered(graph: ir.Graph, matrix: quantize.Packed) -> list[ir.Value]:
    """Codes (N, K), scales and zero points (N, blocks), as initializers of the graph."""
    size = (matrix.rows, matrix.blocks)
    zero_points = weights.weight(
        f"{matrix.name}.zero_points",
        lambda: np.full(size, quantize.ZERO_POINT, dtype=np.uint8),
        shape=size,
        dtype=ir.DataType.UINT8,
    )
    parts = [matrix.codes((matrix.rows, matrix.columns)), matrix.scales(), zero_points]
    for part in parts:
        graph.register_initializer(part)
    return parts
