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
(``runtime/cpu_features.py``).
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulIntegerToFloat.
"""

from __future__ import annotations

import onnx_ir as ir

from ..linear import Linear, is_product
from ..operator import schema
from .dynamic_quantize import product, rounded
from .methods.round_to_nearest import Scheme
from .pack_for_ort import PackForOrt
from .pack_matrices import register
from .packed_weight import Packed
from .recipe import Recipe

_MOST_PARTS = 4


class PackInBytes(PackForOrt):
    """Every linear layer but the head; the rest as for MatMulNBits."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any matrix was packed."""
        self._rounded.clear()
        return super().call(model)

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Multiply bytes by bytes, and scale what comes of it."""
        if layer.output.is_graph_output():
            super().pack_linear(graph, layer, matrix)
            return
        tape = ir.tape.Tape()
        if is_product(layer.input) and (parts := parts_of(matrix.columns)) > 1:
            width = matrix.columns // parts
            last = _in_parts(tape, graph, layer, Packed(layer.weight, _rows_of(width)))
        else:
            codes, scales = Packed(layer.weight, _rows_of(matrix.columns)).part(0)
            register(graph, codes, scales)
            if layer.input not in self._rounded:
                self._rounded[layer.input] = rounded(tape, layer.input)
            x, scale = self._rounded[layer.input]
            last = ir.Node("", "Mul", [product(tape, x, codes, scales), scale])
        graph.opset_imports.setdefault(schema.MICROSOFT, 1)
        graph.insert_before(layer.matmul, list(tape.nodes))
        layer.replace_with(graph, last)


def parts_of(columns: int) -> int:
    """Into how many equal parts the columns behind a gated product are cut.

    >>> [parts_of(columns) for columns in (14336, 172, 86, 43)]
    [4, 4, 2, 1]
    """
    return next(parts for parts in (_MOST_PARTS, 2, 1) if columns % parts == 0)


def _rows_of(width: int) -> Scheme:
    """One scale for so many weights of a row."""
    return Scheme(bits=8, block=width)


def _in_parts(tape: ir.tape.Tape, graph: ir.Graph, layer: Linear, matrix: Packed) -> ir.Node:
    """Round each part of each position by itself; the node that sums their products."""
    parts, width = matrix.blocks, matrix.scheme.block
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
        codes, scales = matrix.part(number)
        register(graph, codes, scales)
        found = product(tape, rows[number], codes, scales)
        products.append(tape.op("Mul", [found, steps[number]]))
    return ir.Node("", "Sum", products)


def _shape(tape: ir.tape.Tape, sizes: list[int]) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": sizes})
