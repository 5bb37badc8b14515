"""Nodes that quantize an activation to bytes, with a scale for each position.

A number is ``(byte - 128) * scale``, with bytes 1 to 255: a position's largest magnitude is met
exactly. What one position holds changes nothing for another, so chunks of any length agree.
"""

from __future__ import annotations

import onnx_ir as ir

from ...operator import schema

LARGEST, MIDDLE = 127.0, 128  # of a byte around its middle
_SMALLEST = 1e-30  # scale of a row of zeros, which must not divide by zero


def rounded(tape: ir.tape.Tape, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(..., K) bytes, and the scale of each row, (..., 1)."""
    scale = scale_of(tape, x)
    return as_bytes(tape, tape.op("Round", [tape.op("Div", [x, scale])])), scale


def scale_of(tape: ir.tape.Tape, x: ir.Value) -> ir.Value:
    """The size of a step of each row, (..., 1)."""
    last = tape.op("Constant", [], {"value_ints": [-1]})
    largest = tape.op("ReduceMax", [tape.op("Abs", [x]), last], {"keepdims": 1})
    scale = tape.op("Div", [largest, number(tape, LARGEST)])
    return tape.op("Max", [scale, number(tape, _SMALLEST)])


def as_bytes(tape: ir.tape.Tape, steps: ir.Value) -> ir.Value:
    """Whole numbers from -127 to 127 as bytes around the middle."""
    shifted = tape.op("Add", [steps, number(tape, float(MIDDLE))])
    return tape.op("Cast", [shifted], {"to": int(ir.DataType.UINT8)})


def product(
    tape: ir.tape.Tape, x: ir.Value, codes: ir.Value, scales: ir.Value, *, middle: int = 0
) -> ir.Value:
    """Bytes (B, T, K) times codes (K, N), by the codes' scales (N,), not yet by the rows'.

    ``middle`` is the code of zero among the weights' bytes; 0 where they have a sign.
    """
    inputs = [x, codes, number(tape, 1.0), scales, byte(tape, MIDDLE)]
    inputs += [byte(tape, middle)] if middle else []
    return tape.op("MatMulIntegerToFloat", inputs, domain=schema.MICROSOFT)


def number(tape: ir.tape.Tape, value: float) -> ir.Value:
    """A float32 of the graph's own."""
    return tape.op("Constant", [], {"value_float": value})


def byte(tape: ir.tape.Tape, value: int) -> ir.Value:
    """A byte of the graph's own."""
    return tape.op("Constant", [], {"value": ir.tensor(value, dtype=ir.DataType.UINT8)})
