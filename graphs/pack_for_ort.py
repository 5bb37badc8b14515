"""Pack matrices into 8 bits for onnxruntime's kernels.

Before:  MatMul(x, Transpose(weight)) and Gather(weight, ids)
After:   MatMulNBits(x, codes, scales) and GatherBlockQuantized(codes, ids, scales)
Legal within the rounding of the weights, at most half a step of their block, and of the
activations, which ``accuracy_level`` 4 rounds to 8 bits a block; parity measures what it costs.
Source: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from . import ops, quantize
from .linear import Linear, replace_node
from .pack_matrices import PackMatrices

INT8_ACCURACY = 4  # multiply in int8: without it, each call unpacks the whole weight


class PackForOrt(PackMatrices):
    """Every matrix that blocks fit, for MatMulNBits and GatherBlockQuantized."""

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: quantize.Packed) -> None:
        """Put MatMulNBits in place of the multiplication."""
        codes = matrix.codes((matrix.rows, matrix.blocks, matrix.block))
        inputs = [layer.input, codes, matrix.scales()]
        layer.replace_with(graph, _kernel(graph, "MatMulNBits", inputs, _linear_sizes(matrix)))

    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: quantize.Packed) -> None:
        """Put GatherBlockQuantized in place of the gather."""
        codes = matrix.codes((matrix.rows, matrix.columns))
        inputs = [codes, gather.inputs[1], matrix.scales()]
        kernel = _kernel(graph, "GatherBlockQuantized", inputs, _gather_sizes(matrix))
        replace_node(graph, gather, [kernel], kernel.outputs)


def _gather_sizes(matrix: quantize.Packed) -> dict[str, int]:
    return {
        "bits": quantize.BITS,
        "block_size": matrix.block,
        "gather_axis": 0,
        "quantize_axis": 1,
    }


def _linear_sizes(matrix: quantize.Packed) -> dict[str, int]:
    return {
        "K": matrix.columns,
        "N": matrix.rows,
        "bits": quantize.BITS,
        "block_size": matrix.block,
        "accuracy_level": INT8_ACCURACY,
    }


def _kernel(
    graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value | None], sizes: dict[str, int]
) -> ir.Node:
    for value in inputs:
        if value is not None and value.const_value is not None:
            graph.register_initializer(value)
    graph.opset_imports.setdefault(ops.MICROSOFT, 1)
    attributes = {name: ir.AttrInt64(name, size) for name, size in sizes.items()}
    return ir.Node(ops.MICROSOFT, op_type, inputs, attributes)
