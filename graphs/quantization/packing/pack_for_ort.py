"""Pack matrices for onnxruntime's kernels.

Before:  MatMul(x, Transpose(weight)) and Gather(weight, ids)
After:   MatMulNBits(x, codes, scales, zero points) and
         GatherBlockQuantized(codes, ids, scales, zero points), in front of a Slice where the
         rows' last block is filled
Legal within the rounding of the weights, at most half a step of their block, and of the
activations, which ``accuracy_level`` 4 rounds to 8 bits a block; parity measures what it costs.
Source: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from ... import weights
from ...linear import Linear, replace_node
from ...operator import schema
from ..matrix_schemes import Role
from ..scheme import Scheme
from .pack_matrices import PackMatrices, folded_size, register, role_of, with_float_scales
from .packed_weight import Packed

INT8_ACCURACY = 4  # multiply in int8: without it, each call unpacks the whole weight
# Of MatMulNBits' scales a session holds as many copies: packed, as each block's sum, and as mapped
# from the file. Found by measuring onnxruntime 1.32 on x86-64; ``make bench-export`` measures it
# again.
_COPIES_OF_SCALES = 3


class PackForOrt(PackMatrices):
    """Every matrix, for MatMulNBits and GatherBlockQuantized.

    MatMulNBits reads rows whose last block is filled. Its matrices have the block that costs the
    fewest bytes; an embedding that is also the head is gathered from the same filled rows, so
    that the file holds them once.
    """

    def pack_as(self, matrix: ir.Value, scheme: Scheme, roles: Collection[Role]) -> Packed:
        """A matrix (N, K) in the recipe's scheme; its block fits K where it is multiplied."""
        if set(roles) == {Role.EMBEDDING}:
            return super().pack_as(matrix, scheme, roles)
        columns = weights.size_of(matrix)[1]
        return Packed(
            matrix,
            scheme.fitted(columns),
            self.schemes.rounder_for(scheme),
            is_padded=True,
            asked=scheme,
            why_block=f"rows of {columns} weights take the fewest bytes so",
            why_shared=self.schemes.why_shared(roles),
        )

    def weights_for(self, role: Role, matrix: Packed) -> list[ir.Value]:
        """Codes, scales and zero points; the last only where zero has no code of its own."""
        codes = matrix.codes_in_rows if role is Role.EMBEDDING else matrix.codes_in_blocks
        zero_points = matrix.packed_zero_points
        zeros = [zero_points] if zero_points is not None else []
        return [codes, *matrix.stored_scales, *zeros]

    def copies_in_memory(self, roles: Collection[Role], weight: ir.Value) -> int:
        """Several of MatMulNBits' scales; of bytes, what onnxruntime makes of them.

        Codes that are gathered too are held twice: as the file has them, and as MatMulNBits packs
        them.
        """
        if not weights.is_scales(weight):
            return len({role is Role.EMBEDDING for role in roles})
        copies = 1 if set(roles) == {Role.EMBEDDING} else _COPIES_OF_SCALES
        return copies * folded_size(weight)

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Put MatMulNBits in place of the multiplication."""
        parts = self.weights_for(role_of(layer), matrix)
        sizes = {
            "K": matrix.columns,
            "N": matrix.rows,
            "bits": matrix.scheme.bits,
            "block_size": matrix.scheme.block,
            "accuracy_level": INT8_ACCURACY,
        }
        register(graph, *parts)
        tape = ir.tape.Tape()
        read = with_float_scales(tape, parts, must_fold=True)
        graph.insert_before(layer.matmul, list(tape.nodes))
        layer.replace_with(graph, _kernel(graph, "MatMulNBits", [layer.input, *read], sizes))

    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: Packed) -> None:
        """Put GatherBlockQuantized in place of the gather."""
        parts = self.weights_for(Role.EMBEDDING, matrix)
        sizes = {
            "bits": matrix.scheme.bits,
            "block_size": matrix.scheme.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        register(graph, *parts)
        tape = ir.tape.Tape()
        codes, *others = with_float_scales(tape, parts, must_fold=True)
        graph.insert_before(gather, list(tape.nodes))
        inputs = [codes, gather.inputs[1], *others]
        kernel = _kernel(graph, "GatherBlockQuantized", inputs, sizes)
        if matrix.row_columns == matrix.columns:
            replace_node(graph, gather, [kernel], kernel.outputs)
            return
        tape = ir.tape.Tape()
        start, end, axis = (
            tape.op("Constant", [], {"value_ints": [number]}) for number in (0, matrix.columns, -1)
        )
        rows = tape.op("Slice", [kernel.outputs[0], start, end, axis])
        replace_node(graph, gather, [kernel, *tape.nodes], (rows,))


def _kernel(
    graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value | None], sizes: dict[str, int]
) -> ir.Node:
    graph.opset_imports.setdefault(schema.MICROSOFT, 1)
    attributes = {name: ir.AttrInt64(name, size) for name, size in sizes.items()}
    return ir.Node(schema.MICROSOFT, op_type, inputs, attributes)
