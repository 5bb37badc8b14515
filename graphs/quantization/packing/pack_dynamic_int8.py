"""Pack the layers' matrices in bytes, to be multiplied by bytes: the fastest prefill there is.

Before:  MatMul(x, Transpose(weight))
After:   scale * MatMulIntegerToFloat(Round(x / scale) + 128, codes, scales of the columns)
         where scale = Max(Abs(x)) / 127 over each position's row, shared by all readers of x; the
         gated product, and the matrix that reads it, are cut along K into four parts that have
         scales of their own, and whose products are summed
Legal within the rounding of the weights, at most half a step of their row (or part of a row), and
of the activations, half of 1 in 127 steps of their position; parity measures what it costs.
The gated product has outliers that no calibration foresees: a part holds them off the others.
The head and the embedding are packed as ``PackForOrt`` does: what they lose reaches the logits
undiluted, and prefill multiplies by the head once.

Codes have a sign: that is where processors with VNNI (and onnxruntime's kernels for them) take
half the time. AVX2 without VNNI saturates such products, unless the session's config forbids it
(``runtime/ort/cpu_features.py``).
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulIntegerToFloat.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from ... import weights
from ...linear import Linear
from ...operator import schema
from ..matrix_schemes import MatrixSchemes, Role
from ..shared_scales import SharedScales, in_parts
from .dynamic_quantize import product, rounded
from .pack_for_ort import PackForOrt
from .pack_matrices import WHY_ROWS, register, role_of
from .packed_weight import Packed

_MOST_PARTS = 4
_PACKED_IN_BLOCKS = (Role.HEAD, Role.EMBEDDING)


class PackDynamicInt8(PackForOrt):
    """Every linear layer but the head; the rest as for MatMulNBits."""

    def __init__(self, schemes: MatrixSchemes) -> None:
        super().__init__(schemes)
        self._rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any matrix was packed."""
        self._rounded.clear()
        return super().call(model)

    def weights_for(self, role: Role, matrix: Packed) -> list[ir.Value]:
        """Codes and scales of each part of the rows; of the head and the embedding, as there."""
        if role in _PACKED_IN_BLOCKS:
            return super().weights_for(role, matrix)
        parts = parts_of(matrix.columns) if role is Role.AFTER_PRODUCT else 1
        why = WHY_ROWS if parts == 1 else f"{WHY_ROWS}, here in {parts} parts for its outliers"
        cut = matrix.in_blocks_of(matrix.columns // parts, why=why)
        return [weight for number in range(parts) for weight in cut.part(number)]

    def shared_scales(self, role: Role, matrix: Packed) -> SharedScales:
        """Whole rows, or parts of them; of the head blocks."""
        if role in _PACKED_IN_BLOCKS:
            return super().shared_scales(role, matrix)
        parts = parts_of(matrix.columns) if role is Role.AFTER_PRODUCT else 1
        return in_parts(matrix.columns, parts=parts)

    def copies_in_memory(self, roles: Collection[Role], weight: ir.Value) -> int:
        """One, but for the head's, and the embedding's where they are one matrix."""
        is_in_blocks = not set(roles).isdisjoint(_PACKED_IN_BLOCKS)
        return super().copies_in_memory(roles, weight) if is_in_blocks else 1

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Multiply bytes by bytes, and scale what comes of it."""
        role = role_of(layer)
        if role in _PACKED_IN_BLOCKS:
            super().pack_linear(graph, layer, matrix)
            return
        tape = ir.tape.Tape()
        stored = self.weights_for(role, matrix)
        register(graph, *stored)
        codes, scales = stored[::2], stored[1::2]
        if len(codes) > 1:
            last = _in_parts(tape, layer, codes, scales)
        else:
            if layer.input not in self._rounded:
                self._rounded[layer.input] = rounded(tape, layer.input)
            x, scale = self._rounded[layer.input]
            last = ir.Node("", "Mul", [product(tape, x, codes[0], scales[0]), scale])
        graph.opset_imports.setdefault(schema.MICROSOFT, 1)
        graph.insert_before(layer.matmul, list(tape.nodes))
        layer.replace_with(graph, last)


def parts_of(columns: int) -> int:
    """Into how many equal parts the columns behind a gated product are cut.

    >>> [parts_of(columns) for columns in (14336, 172, 86, 43)]
    [4, 4, 2, 1]
    """
    return next(parts for parts in (_MOST_PARTS, 2, 1) if columns % parts == 0)


def _in_parts(
    tape: ir.tape.Tape, layer: Linear, codes: Sequence[ir.Value], scales: Sequence[ir.Value]
) -> ir.Node:
    """Round each part of each position by itself; the node that sums their products."""
    parts, width = len(codes), weights.size_of(codes[0])[0]
    cut = tape.op("Reshape", [layer.input, _shape(tape, [0, 0, parts, width])])
    x, scale = rounded(tape, cut)
    several = {"axis": -1, "num_outputs": parts}
    whole = _shape(tape, [0, 0, -1])
    rows = tape.op_multi_out("Split", [tape.op("Reshape", [x, whole])], several, num_outputs=parts)
    steps = tape.op_multi_out(
        "Split", [tape.op("Reshape", [scale, whole])], several, num_outputs=parts
    )
    products = []
    for number in range(parts):
        found = product(tape, rows[number], codes[number], scales[number])
        products.append(tape.op("Mul", [found, steps[number]]))
    return ir.Node("", "Sum", products)


def _shape(tape: ir.tape.Tape, sizes: list[int]) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": sizes})
