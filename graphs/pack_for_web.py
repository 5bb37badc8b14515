"""Pack matrices for browsers, whose runtime multiplies bytes fast and nothing else that is packed.

Before:  MatMul(x, Transpose(weight)) and Gather(weight, ids)
After:   scale * MatMulIntegerToFloat(Round(x / scale) + 128, codes, scales of the columns)
         where scale = Max(Abs(x)) / 127 over each position's row, shared by all readers of x; for
         the projection that ends the perceptron, x is rounded twice, the second time what the
         first left over: two rows of bytes, multiplied at once, then added;
         and DequantizeLinear(Gather(codes, ids), Gather(scales, ids))
Legal within the rounding of the weights, at most half a step of their row, and of the activations,
half of 1 in 127 steps of their position; parity measures what it costs. The gated product that the
last projection reads has outliers, which would leave the rest of their row a few steps.
Codes are unsigned: AVX2 without VNNI saturates where both factors are signed.
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulIntegerToFloat.
"""

from __future__ import annotations

import onnx_ir as ir

from . import ops
from .linear import Linear
from .pack_for_portable import PackForPortable
from .pack_matrices import PackMatrices, register
from .packed import Packed
from .quantize import Scheme
from .recipe import Recipe

_LARGEST, _MIDDLE = 127.0, 128  # of a byte around its middle
_LEFT_OVER = 2 * _LARGEST  # half a step at most is left over: so many steps fit in a whole one
_SMALLEST = 1e-30  # scale of a row of zeros, which must not divide by zero


class PackForWeb(PackMatrices):
    """Every matrix: bytes and a scale a row where it multiplies, blocks where it is gathered."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._gathers = PackForPortable(recipe)
        self._rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` tells whether any matrix was packed."""
        self._rounded.clear()
        return super().call(model)

    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Multiply bytes by bytes, and scale what comes of it."""
        whole_rows = Packed(layer.weight, Scheme(bits=matrix.scheme.bits, block=matrix.columns))
        codes, scales = whole_rows.codes_in_columns, whole_rows.column_scales
        register(graph, codes, scales)
        tape = ir.tape.Tape()
        if _is_product(layer.input):
            rounded, scale = _rounded_twice(tape, layer.input)
            both = _product(tape, rounded, codes, scales)
            first, second = tape.op_multi_out(
                "Split", [both], {"axis": 1, "num_outputs": 2}, num_outputs=2
            )
            fraction = _number(tape, 1 / _LEFT_OVER)
            total = tape.op("Add", [first, tape.op("Mul", [second, fraction])])
        else:
            if layer.input not in self._rounded:
                self._rounded[layer.input] = _rounded_once(tape, layer.input)
            rounded, scale = self._rounded[layer.input]
            total = _product(tape, rounded, codes, scales)
        *before, last = [*tape.nodes, ir.Node("", "Mul", [total, scale])]
        graph.opset_imports.setdefault(ops.MICROSOFT, 1)
        graph.insert_before(layer.matmul, before)
        layer.replace_with(graph, last)

    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: Packed) -> None:
        """Gather codes and scales, then unpack the rows: no build for browsers lacks that."""
        self._gathers.pack_gather(graph, gather, matrix)


def _is_product(x: ir.Value) -> bool:
    """Whether it is the gated product, the only one that a linear layer reads."""
    producer = x.producer()
    return producer is not None and producer.op_type == "Mul"


def _product(tape: ir.tape.Tape, x: ir.Value, codes: ir.Value, scales: ir.Value) -> ir.Value:
    one, middle = _number(tape, 1.0), _byte(tape, _MIDDLE)
    inputs = [x, codes, one, scales, middle, middle]
    return tape.op("MatMulIntegerToFloat", inputs, domain=ops.MICROSOFT)


def _rounded_once(tape: ir.tape.Tape, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(B, T, K) bytes, and the scale of each position, (B, T, 1)."""
    scale = _scale(tape, x)
    return _bytes(tape, tape.op("Round", [tape.op("Div", [x, scale])])), scale


def _rounded_twice(tape: ir.tape.Tape, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(B, 2 T, K) bytes, all first roundings before the second, and the scales, (B, T, 1)."""
    scale = _scale(tape, x)
    steps = tape.op("Div", [x, scale])
    first = tape.op("Round", [steps])
    left_over = tape.op("Mul", [tape.op("Sub", [steps, first]), _number(tape, _LEFT_OVER)])
    both = tape.op("Concat", [first, tape.op("Round", [left_over])], {"axis": 1})
    return _bytes(tape, both), scale


def _scale(tape: ir.tape.Tape, x: ir.Value) -> ir.Value:
    last = tape.op("Constant", [], {"value_ints": [-1]})
    largest = tape.op("ReduceMax", [tape.op("Abs", [x]), last], {"keepdims": 1})
    scale = tape.op("Div", [largest, _number(tape, _LARGEST)])
    return tape.op("Max", [scale, _number(tape, _SMALLEST)])


def _bytes(tape: ir.tape.Tape, steps: ir.Value) -> ir.Value:
    shifted = tape.op("Add", [steps, _number(tape, float(_MIDDLE))])
    return tape.op("Cast", [shifted], {"to": int(ir.DataType.UINT8)})


def _number(tape: ir.tape.Tape, value: float) -> ir.Value:
    return tape.op("Constant", [], {"value_float": value})


def _byte(tape: ir.tape.Tape, value: int) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(value, dtype=ir.DataType.UINT8)})
