"""Pack matrices with standard operators.

Before:  MatMul(x, Transpose(weight)) and Gather(weight, ids)
After:   MatMul(x, Transpose(DequantizeLinear(codes, scales, zero points)))
         and DequantizeLinear(Gather(codes, ids), Gather(scales, ids), Gather(zero points, ids))
Legal within the rounding of the weights, at most half a step of their block; a block never
crosses a row, so gathering before or after unpacking yields the same numbers. Codes of 4 bits are
gathered as bytes and parted afterwards, since Gather has no kernel for them.
Source: ONNX operator DequantizeLinear, opset 21, blocked.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ... import weights
from ...linear import Linear, rank_of, replace_node
from ..matrix_schemes import Role
from ..shared_scales import SharedScales, in_blocks
from .pack_matrices import PackMatrices, folded_size, register, role_of, with_float_scales
from .packed_weight import Packed


class PackForPortable(PackMatrices):
    """Every matrix, unpacked by DequantizeLinear where it is read."""

    def weights_for(self, role: Role, matrix: Packed) -> list[ir.Value]:
        """Codes, scales, and zero points where zero has no code of its own."""
        if matrix.scheme.is_symmetric:
            return [matrix.elements, *matrix.stored_scales]
        if role is Role.EMBEDDING:
            return [matrix.codes_in_rows, *matrix.stored_scales, matrix.zero_points]
        return [matrix.elements, *matrix.stored_scales, matrix.zero_point_elements]

    def shared_scales(self, role: Role, matrix: Packed) -> SharedScales:  # noqa: ARG002 - all alike
        """Blocks of weights; activations stay in float."""
        return in_blocks(matrix.scheme, rounds_activations=False)

    def copies_in_memory(self, roles: Collection[Role], weight: ir.Value) -> int:
        """One; of scales in bytes that are not gathered alone, what onnxruntime makes of them."""
        is_folded = weights.is_scales(weight) and set(roles) != {Role.EMBEDDING}
        return folded_size(weight) if is_folded else 1

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Unpack the weight in front of its transpose."""
        tape = ir.tape.Tape()
        parts = self.weights_for(role_of(layer), matrix)
        register(graph, *parts)
        sizes = {"axis": 1, "block_size": matrix.scheme.block}
        read = with_float_scales(tape, parts)
        unpacked = tape.op("DequantizeLinear", read, sizes)
        graph.insert_before(layer.transpose, list(tape.nodes))
        layer.transpose.replace_input_with(0, unpacked)

    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: Packed) -> None:
        """Gather codes, scales and zero points, then unpack the rows."""
        parts = self.weights_for(Role.EMBEDDING, matrix)
        register(graph, *parts)
        tape = ir.tape.Tape()
        gathered = [tape.op("Gather", [part, gather.inputs[1]], {"axis": 0}) for part in parts]
        for value, part in zip(gathered, parts, strict=True):
            value.type = part.type
        codes, *others = with_float_scales(tape, gathered)
        if matrix.scheme.bits == 4:
            codes = _part_nibbles(tape, codes, rank=rank_of(gather.inputs[1]))
        sizes = {"axis": -1, "block_size": matrix.scheme.block}
        unpacked = tape.op("DequantizeLinear", [codes, *others], sizes)
        replace_node(graph, gather, list(tape.nodes), (unpacked,))


def _part_nibbles(tape: ir.tape.Tape, packed: ir.Value, *, rank: int) -> ir.Value:
    """(..., n) bytes to (..., 2 n) codes, the low bits first; ``rank`` sizes before n."""
    low_bits, width = (
        tape.op("Constant", [], {"value": ir.tensor(number, dtype=ir.DataType.UINT8)})
        for number in (15, 4)
    )
    last = tape.op("Constant", [], {"value_ints": [-1]})
    shape = tape.op("Constant", [], {"value_ints": [*([0] * rank), -1]})
    halves = [
        tape.op("Unsqueeze", [half, last])
        for half in (
            tape.op("BitwiseAnd", [packed, low_bits]),
            tape.op("BitShift", [packed, width], {"direction": "RIGHT"}),
        )
    ]
    return tape.op("Reshape", [tape.op("Concat", halves, {"axis": -1}), shape])
