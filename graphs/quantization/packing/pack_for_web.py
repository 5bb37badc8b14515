"""Pack matrices for browsers, whose runtime multiplies bytes fast and nothing else that is packed.

Before:  MatMul(x, Transpose(weight)) and Gather(weight, ids)
After:   scale * MatMulIntegerToFloat(Round(x / scale) + 128, codes, scales of the columns)
         where scale = Max(Abs(x)) / 127 over each position's row, shared by all readers of x; for
         the projection that ends the perceptron, x is rounded twice, the second time what the
         first left over: two rows of bytes, multiplied at once, then added;
         and DequantizeLinear(Gather(codes, ids), Gather(scales, ids)); of a matrix that is
         multiplied too, DequantizeLinear(Transpose(Gather(codes, ids, axis=1)),
         Gather(scales of the columns, ids)), so that the file holds it once
Legal within the rounding of the weights, at most half a step of their row, and of the activations,
half of 1 in 127 steps of their position; parity measures what it costs. The gated product that the
last projection reads has outliers, which would leave the rest of their row a few steps.
Codes are unsigned: AVX2 without VNNI saturates where both factors are signed.
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulIntegerToFloat.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ...linear import Linear, is_product, rank_of, replace_node
from ...operator import schema
from ..matrix_schemes import MatrixSchemes, Role
from ..scheme import Scheme
from ..shared_scales import SharedScales, in_parts
from .dynamic_quantize import (
    LARGEST,
    MIDDLE,
    as_bytes,
    number,
    product,
    rounded,
    scale_of,
)
from .pack_for_portable import PackForPortable
from .pack_matrices import WHY_ROWS, PackMatrices, register, role_of
from .packed_weight import Packed

_LEFT_OVER = 2 * LARGEST  # half a step at most is left over: so many steps fit in a whole one


class PackForWeb(PackMatrices):
    """Every matrix: bytes and a scale a row where it multiplies, blocks where it is gathered."""

    def __init__(self, schemes: MatrixSchemes) -> None:
        super().__init__(schemes)
        self._gathers = PackForPortable(schemes)
        self._tied: set[Packed] = set()  # both gathered and multiplied
        self._rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any matrix was packed."""
        self._rounded.clear()
        return super().call(model)

    def pack_as(self, matrix: ir.Value, scheme: Scheme, roles: Collection[Role]) -> Packed:
        """A matrix (N, K): in blocks where it is only gathered, else a scale a row."""
        packed = super().pack_as(matrix, scheme, roles)
        if set(roles) == {Role.EMBEDDING}:
            return packed
        whole_rows = packed.in_blocks_of(packed.columns, why=WHY_ROWS)
        if Role.EMBEDDING in roles:
            self._tied.add(whole_rows)
        return whole_rows

    def weights_for(self, role: Role, matrix: Packed) -> list[ir.Value]:
        """Codes in columns and a scale a row; rows in blocks if all that reads it is a gather."""
        if role is Role.EMBEDDING and matrix not in self._tied:
            return self._gathers.weights_for(role, matrix)
        return [matrix.codes_in_columns, matrix.column_scales]

    def shared_scales(self, role: Role, matrix: Packed) -> SharedScales:
        """Whole rows; activations that are rounded twice are as good as in float."""
        is_rounded_once = role is not Role.AFTER_PRODUCT
        return in_parts(matrix.columns, rounds_activations=is_rounded_once)

    def copies_in_memory(self, roles: Collection[Role], weight: ir.Value) -> int:  # noqa: ARG002
        """Two of codes that are gathered too: as stored, and as the other kernel packs them."""
        is_shared = any(weight is matrix.codes_in_columns for matrix in self._tied)
        return 1 + is_shared

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Multiply bytes by bytes, and scale what comes of it."""
        codes, scales = self.weights_for(role_of(layer), matrix)
        register(graph, codes, scales)
        tape = ir.tape.Tape()
        if is_product(layer.input):
            bytes_, scale = _rounded_twice(tape, layer.input)
            both = product(tape, bytes_, codes, scales, middle=MIDDLE)
            first, second = tape.op_multi_out(
                "Split", [both], {"axis": 1, "num_outputs": 2}, num_outputs=2
            )
            fraction = number(tape, 1 / _LEFT_OVER)
            total = tape.op("Add", [first, tape.op("Mul", [second, fraction])])
        else:
            if layer.input not in self._rounded:
                self._rounded[layer.input] = rounded(tape, layer.input)
            bytes_, scale = self._rounded[layer.input]
            total = product(tape, bytes_, codes, scales, middle=MIDDLE)
        *before, last = [*tape.nodes, ir.Node("", "Mul", [total, scale])]
        graph.opset_imports.setdefault(schema.MICROSOFT, 1)
        graph.insert_before(layer.matmul, before)
        layer.replace_with(graph, last)

    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: Packed) -> None:
        """Gather codes and scales, then unpack the rows: no build for browsers lacks that."""
        if matrix not in self._tied:
            self._gathers.pack_gather(graph, gather, matrix)
            return
        codes, scales = parts = self.weights_for(Role.EMBEDDING, matrix)
        register(graph, *parts)
        ids, tape = gather.inputs[1], ir.tape.Tape()
        columns = tape.op("Gather", [codes, ids], {"axis": 1})
        rows = tape.op("Transpose", [columns], {"perm": [*range(1, 1 + rank_of(ids)), 0]})
        last = tape.op("Constant", [], {"value_ints": [-1]})
        steps = tape.op("Unsqueeze", [tape.op("Gather", [scales, ids], {"axis": 0}), last])
        middle = ir.tensor([MIDDLE], dtype=ir.DataType.UINT8)
        middles = tape.op("ConstantOfShape", [tape.op("Shape", [steps])], {"value": middle})
        sizes = {"axis": -1, "block_size": matrix.columns}
        unpacked = tape.op("DequantizeLinear", [rows, steps, middles], sizes)
        replace_node(graph, gather, list(tape.nodes), (unpacked,))


def _rounded_twice(tape: ir.tape.Tape, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(B, 2 T, K) bytes, all first roundings before the second, and the scales, (B, T, 1)."""
    scale = scale_of(tape, x)
    steps = tape.op("Div", [x, scale])
    first = tape.op("Round", [steps])
    left_over = tape.op("Mul", [tape.op("Sub", [steps, first]), number(tape, _LEFT_OVER)])
    both = tape.op("Concat", [first, tape.op("Round", [left_over])], {"axis": 1})
    return as_bytes(tape, both), scale
