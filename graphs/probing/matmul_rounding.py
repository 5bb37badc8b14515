"""How a matmul's weights and activations are rounded, read from its node and those around it."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ..quantization.activation_rounding import ByPosition, InBlocks, Rounding
from ..quantization.packing.pack_for_ort import INT8_ACCURACY
from ..weights import bits_of

# Their operands are integers: nodes before them round activations, nodes after them scale.
INTEGER_MATMULS = {"MatMulInteger", "MatMulIntegerToFloat"}
INT8_MATMULS = {"DynamicQuantizeMatMul", *INTEGER_MATMULS}
_COLUMN_SCALES = {"DynamicQuantizeMatMul": 2, "MatMulIntegerToFloat": 3}  # input slots


def weight_rounding(node: ir.Node) -> tuple[int, int | None]:
    """Bits of a weight, and how many weights share a scale; None: a whole row or matrix does."""
    attributes: dict[str, Any] = {a.name: a.value for a in node.attributes.values()}
    if node.op_type == "DequantizeLinear":
        typed = node.inputs[2] if len(node.inputs) > 2 else node.inputs[0]
        return _bits(typed), int(attributes.get("block_size", 0)) or None
    if "block_size" in attributes:
        bits = attributes.get("bits") or _bits(node.inputs[0])
        return int(bits), int(attributes["block_size"])
    if node.op_type in INT8_MATMULS:
        return 8, _column(node)
    for value in node.inputs[:2]:
        producer = value.producer() if value is not None else None
        while producer is not None and producer.op_type == "Transpose":
            producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
        if producer is not None and producer.op_type == "DequantizeLinear":
            return weight_rounding(producer)
    return 32, None


def activation_rounding(node: ir.Node, passed: set[str], block: int | None) -> Rounding | None:
    """How a matmul rounds its activations; None where it does not, or by an unknown rule.

    Args:
        node: the matmul.
        passed: op types of the nodes that round its input.
        block: weights that share a scale.
    """
    if node.op_type == "MatMulNBits":
        is_rounded = node.attributes.get_int("accuracy_level", 0) == INT8_ACCURACY
        return InBlocks(node.attributes.get_int("block_size")) if is_rounded else None
    if node.op_type == "MatMulIntegerToFloat" and "Round" in passed and block is not None:
        return ByPosition(block, is_twice="Concat" in passed)
    return None


def _column(node: ir.Node) -> int | None:
    """Weights of one output, where each output (a column of codes) has its own scale."""
    codes, at = node.inputs[1], _COLUMN_SCALES.get(node.op_type)
    scales = node.inputs[at] if at is not None and at < len(node.inputs) else None
    if scales is None or scales.shape is None or codes is None or codes.shape is None:
        return None
    size = codes.shape[0]
    return size if isinstance(size, int) and scales.shape.rank() == 1 else None


def _bits(value: ir.Value | None) -> int:
    return bits_of(None if value is None else value.dtype) or 8
