"""Sliding-window attention in ONNX's own ops."""

import onnx_ir as ir
from onnxscript import FLOAT, INT64, script
from onnxscript import opset23 as op
from onnxscript.values import Opset

from . import schema


def standard_body() -> ir.Function:
    """The operator in ONNX's own ops: any runtime that inlines functions can run it."""
    return ir.serde.deserialize_function(SlidingWindowAttention.to_function_proto())


@script(Opset(schema.DOMAIN, schema.VERSION), default_opset=op)
def SlidingWindowAttention(
    query: FLOAT["B", "T", "H * D"],
    key: FLOAT["B", "T", "G * D"],
    value: FLOAT["B", "T", "G * D"],
    past_key: FLOAT["B", "G", "C", "D"],
    past_value: FLOAT["B", "G", "C", "D"],
    attention_mask: INT64["B", "S"],
    cos_cache: FLOAT["P", "D / 2"],
    sin_cache: FLOAT["P", "D / 2"],
    window: int = 0,
    grows: int = 0,
    rotates: int = 1,
):
    """Join the past rows and the new ones, mask by the positions they hold, gather the rows to
    carry. The past is read before anything is written: past and present may share memory.
    """
    T = op.Shape(query, start=1, end=2)
    S = op.Shape(attention_mask, start=1, end=2)
    C = op.Shape(past_key, start=2, end=3)
    D = op.Shape(past_key, start=3, end=4)
    W = op.Reshape(op.Constant(value_int=window), [1])
    has_window = W > 0
    is_bounded = op.And(has_window, op.Reshape(op.Constant(value_int=grows), [1]) == 0)

    # Tokens before this call and after it, and the oldest position held then: (B, 1) each. The
    # mask's last T columns are those of the new tokens; what is padded before them is no token.
    total = op.ReduceSum(attention_mask, [1], keepdims=1)
    padded = op.ArgMax(op.Slice(attention_mask, S - T, S, [1]), axis=1)
    past = op.Max(total - T + padded, 0)
    E = op.Where(is_bounded, C - W + 1, 1)
    past_first = op.Where(is_bounded, op.Max((past - C + E - 1) / E, 0) * E, 0)
    first = op.Where(is_bounded, op.Max((total - C + E - 1) / E, 0) * E, 0)
    rows = op.Where(is_bounded, C, op.Max(C, S))

    # Keys and values of the past rows, then of the new tokens: (B, G, C + T, D).
    heads = op.Concat([0], [0], [-1], D, axis=0)
    positions = past + op.Range(0, op.Squeeze(T), 1)
    q = op.Transpose(op.Reshape(query, heads), perm=[0, 2, 1, 3])
    k = op.Transpose(op.Reshape(key, heads), perm=[0, 2, 1, 3])
    v = op.Transpose(op.Reshape(value, heads), perm=[0, 2, 1, 3])
    has_rope = op.Reshape(op.Constant(value_int=rotates), [1]) > 0
    q = op.Where(has_rope, op.RotaryEmbedding(q, cos_cache, sin_cache, positions), q)
    k = op.Where(has_rope, op.RotaryEmbedding(k, cos_cache, sin_cache, positions), k)
    keys = op.Concat(past_key, k, axis=2)
    values = op.Concat(past_value, v, axis=2)

    # The position that each of them holds, (B, C + T); a row that holds none is out of reach.
    row = op.Range(0, op.Squeeze(C + T), 1)
    nowhere = total + T
    old = op.Where(row < past - past_first, past_first + row, nowhere)
    held = op.Where(row < C, old, past + row - C)
    i = op.Unsqueeze(positions, [1, 3])
    j = op.Unsqueeze(held, [1, 2])
    is_visible = op.And(j <= i, op.Or(op.Not(has_window), j > i - W))
    attended = op.Attention(q, keys, values, is_visible)
    attention = op.Reshape(op.Transpose(attended, perm=[0, 2, 1, 3]), [0, 0, -1])

    # Row r carries position first + r: from the past where it was held there, else from the new.
    carried = first + op.Range(0, op.Squeeze(rows), 1)
    source = op.Where(carried < past, carried - past_first, carried - past + C)
    source = op.Unsqueeze(op.Min(source, C + T - 1), [1, 3])
    index = op.Expand(source, op.Concat([1], op.Shape(past_key, start=1, end=2), [1], D, axis=0))
    present_key = op.GatherElements(keys, index, axis=2)
    present_value = op.GatherElements(values, index, axis=2)
    return attention, present_key, present_value
