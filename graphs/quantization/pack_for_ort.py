"""Pack matrices for onnxruntime's kernels.

Before:  MatMul(x, Transpose(weight)) and Gather(weight, ids)
After:   MatMulNBits(x, codes, scales, zero points) and
         GatherBlockQuantized(codes, ids, scales, zero points)
Legal within the rounding of the weights, at most half a step of their block, and of the
activations, which ``accuracy_level`` 4 rounds to 8 bits a block; parity measures what it costs.
Source: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..linear import Linear, replace_node
from ..operator import schema
from .pack_matrices import PackMatrices, register
from .packed_weight import Packed

INT8_ACCURACY = 4  # multiply in int8: without it, each call unpacks the whole weight


class PackForOrt(PackMatrices):
    """Every matrix, for MatMulNBits and GatherBlockQuantized."""

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Put MatMulNBits in place of the multiplication."""
        parts = [matrix.codes_in_blocks, matrix.scales, matrix.packed_zero_points]
        sizes = {
            "K": matrix.columns,
            "N": matrix.rows,
            "bits": matrix.scheme.bits,
            "block_size": matrix.scheme.block,
            "accuracy_level": INT8_ACCURACY,
        }
        register(graph, *parts)
        layer.replace_with(graph, _kernel(graph, "MatMulNBits", [layer.input, *parts], sizes))

    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: Packed) -> None:
        """Put GatherBlockQuantized in place of the gather."""
        codes, *others = parts = [matrix.codes_in_rows, matrix.scales, matrix.packed_zero_points]
        sizes = {
            "bits": matrix.scheme.bits,
            "block_size": matrix.scheme.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        register(graph, *parts)
        inputs = [codes, gather.inputs[1], *others]
        kernel = _kernel(graph, "GatherBlockQuantized", inputs, sizes)
        replace_node(graph, gather, [kernel], kernel.outputs)


def _kernel(
    graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value | None], sizes: dict[str, int]
) -> ir.Node:
    given = inputs if inputs[-1] is not None else inputs[:-1]  # zero points are optional, last
    graph.opset_imports.setdefault(schema.MICROSOFT, 1)
    attributes = {name: ir.AttrInt64(name, size) for name, size in sizes.items()}
    return ir.Node(schema.MICROSOFT, op_type, given, attributes)
