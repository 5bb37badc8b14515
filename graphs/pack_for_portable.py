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
            matrix = quantize.packed(layer.weight, name=str(layer.weight.name))
            if matrix is None:
                continue
            tape = ir.tape.Tape()
            parts = _registered(graph, matrix)
            unpacked = tape.op("DequantizeLinear", parts, {"axis": 1, "block_size": matrix.block})
            graph.insert_before(layer.transpose, list(tape.nodes))
            layer.transpose.replace_input_with(0, unpacked)
            packed += 1
        for gather in gathers(graph):
            source, ids = gather.inputs
            assert source is not None, "gathers yields nodes over initializers"
            matrix = quantize.packed(source, name=f"{source.name}.gathered")
            if matrix is None:
                continue
            tape = ir.tape.Tape()
            parts = _registered(graph, matrix)
            rows = [tape.op("Gather", [part, ids], {"axis": 0}) for part in parts]
            unpacked = tape.op("DequantizeLinear", rows, {"axis": -1, "block_size": matrix.block})
            replace_node(graph, gather, list(tape.nodes), (unpacked,))
            packed += 1
        return ir.passes.PassResult(model, modified=packed > 0)


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
