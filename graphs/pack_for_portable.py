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
from .linear import gathers, linears, replace_node


class PackForPortable(ir.passes.InPlacePass):
    """Every linear layer, and every gather of rows from a matrix of weights."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` tells whether any matrix was packed."""
        graph = model.graph
        packed = 0
        for layer in linears(graph):
            matrix = _registered(graph, layer.weight)
            if matrix is None:
                continue
            tape = ir.tape.Tape()
            unpacked = tape.op("DequantizeLinear", matrix, _BLOCKED)
            graph.insert_before(layer.transpose, list(tape.nodes))
            layer.transpose.replace_input_with(0, unpacked)
            packed += 1
        for gather in gathers(graph):
            source, ids = gather.inputs
            assert source is not None, "gathers yields nodes over initializers"
            matrix = _registered(graph, source)
            if matrix is None:
                continue
            tape = ir.tape.Tape()
            rows = [tape.op("Gather", [part, ids], {"axis": 0}) for part in matrix]
            unpacked = tape.op("DequantizeLinear", rows, _BLOCKED_ROWS)
            replace_node(graph, gather, list(tape.nodes), (unpacked,))
            packed += 1
        return ir.passes.PassResult(model, modified=packed > 0)


_BLOCKED = {"axis": 1, "block_size": quantize.BLOCK}
_BLOCKED_ROWS = {"axis": -1, "block_size": quantize.BLOCK}


def _registered(graph: ir.Graph, source: ir.Value) -> list[ir.Value] | None:
    """Codes (N, K), scales (N, blocks) and zero points as scales; None where blocks do not fit."""
    matrix = quantize.Packed(source)
    if matrix.columns % quantize.BLOCK:
        return None
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
