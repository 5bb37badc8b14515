"""Lower the attention to onnxruntime's own kernel.

Before:  SlidingWindowAttention(query, key, value, past_key, past_value, attention_mask, cos, sin)
After:   GroupQueryAttention(query, key, value, past_key, past_value, last, total, cos, sin)
         where last = ReduceSum(float(attention_mask)) - 1 and total = Shape(attention_mask)[1]
         with rope in front of it where the kernel has none for the head size:
         RotaryEmbedding(query), RotaryEmbedding(key) and a kernel that does not rotate, which is
         all of it where a layer has no rope
Legal because the kernel keeps the same window (its ``local_window_size`` counts the query's own
key too), rotates halves, maps query head h to h // (H / G), and with ``sliding_window_cache``
holds the same rows, without it all of them. The kernel that holds all rows takes a batch whose
first call is padded behind each sequence's tokens; the one with ``sliding_window_cache`` refuses
it. Neither appends several tokens to more than one sequence. Sums of ones in float32 are exact up
to 2^24 tokens, and take a sixth of the time that they take in int64, which at 50 000 tokens is
the longest of all nodes in a small model.
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.GroupQueryAttention.
"""

from __future__ import annotations

import onnx_ir as ir

from ...runtime.errors import GraphError
from ..linear import replace_node
from ..operator import schema
from ..operator.group_query_attention import (
    EVICTS,
    GROUP_QUERY_ATTENTION,
    NUM_HEADS,
    NUM_KV_HEADS,
    ROPE_TABLES,
    ROTARY_HEAD_MULTIPLE,
    ROTATES,
    WINDOW,
    Slot,
    in_order,
)


class LowerAttention(ir.passes.InPlacePass):
    """Every SlidingWindowAttention; the lengths are computed once per attention mask."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any node was lowered."""
        lengths: dict[ir.Value, list[ir.Value]] = {}
        lowered = 0
        for node in list(model.graph):
            if node.op_identifier()[:2] != (schema.DOMAIN, schema.SLIDING_WINDOW_ATTENTION):
                continue
            given = schema.named_inputs(node)
            mask = given["attention_mask"]
            if mask not in lengths:
                nodes, lengths[mask] = _count_tokens(mask)
                model.graph.insert_before(node, nodes)
            attributes = _attributes(given, node)
            rope: list[ir.Node] = []
            inputs = _inputs(given, lengths[mask])
            if not attributes[ROTATES]:
                if _has_rope(node):
                    rope, rotated = _rotate(given, attributes)
                    inputs |= dict(zip((Slot.QUERY, Slot.KEY), rotated, strict=True))
                for table in ROPE_TABLES:
                    del inputs[table]
            kernel = ir.Node(
                schema.MICROSOFT,
                GROUP_QUERY_ATTENTION,
                in_order(inputs),
                {name: ir.AttrInt64(name, value) for name, value in attributes.items()},
                num_outputs=len(schema.OUTPUTS),
            )
            replace_node(model.graph, node, [*rope, kernel], kernel.outputs)
            lowered += 1
        if lowered:
            model.graph.opset_imports.setdefault(schema.MICROSOFT, 1)
            model.graph.opset_imports.pop(schema.DOMAIN, None)
        return ir.passes.PassResult(model, modified=lowered > 0)


def _inputs(given: dict[str, ir.Value], lengths: list[ir.Value]) -> dict[Slot, ir.Value]:
    last, total = lengths
    return {
        Slot.QUERY: given["query"],
        Slot.KEY: given["key"],
        Slot.VALUE: given["value"],
        Slot.PAST_KEY: given["past_key"],
        Slot.PAST_VALUE: given["past_value"],
        Slot.SEQLENS_K: last,
        Slot.TOTAL_SEQUENCE_LENGTH: total,
        Slot.COS_CACHE: given["cos_cache"],
        Slot.SIN_CACHE: given["sin_cache"],
    }


def _attributes(given: dict[str, ir.Value], node: ir.Node) -> dict[str, int]:
    query, past_key = given["query"], given["past_key"]
    values = {
        NUM_HEADS: _fixed(query, 2) // _fixed(past_key, 3),
        NUM_KV_HEADS: _fixed(past_key, 1),
        ROTATES: int(_has_rope(node) and _fixed(past_key, 3) % ROTARY_HEAD_MULTIPLE == 0),
    }
    window = node.attributes.get_int("window", None)
    if window is not None:
        values[WINDOW] = window
        if not node.attributes.get_int("grows", 0):
            values[EVICTS] = 1
    return values


def _has_rope(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("rotates", 1))


def _rotate(
    given: dict[str, ir.Value], heads: dict[str, int]
) -> tuple[list[ir.Node], list[ir.Value]]:
    """Rope for queries and keys, by the positions of the new tokens: (B, T) int64."""
    query, key, mask = given["query"], given["key"], given["attention_mask"]
    cos, sin = given["cos_cache"], given["sin_cache"]
    tape = ir.tape.Tape()
    zero, one = (tape.op("Constant", [], {"value_int": n}) for n in (0, 1))
    axis = tape.op("Constant", [], {"value_ints": [1]})
    new = tape.op("Squeeze", [tape.op("Shape", [query], {"start": 1, "end": 2})])
    total = tape.op("ReduceSum", [mask, axis], {"keepdims": 1})
    since = tape.op("Range", [zero, new, one])
    past = tape.op("Max", [tape.op("Sub", [total, new]), zero])  # below 0 where a batch is padded
    positions = tape.op("Add", [past, since])
    rotated = [
        tape.op("RotaryEmbedding", [x, cos, sin, positions], {"num_heads": heads[count]})
        for x, count in ((query, NUM_HEADS), (key, NUM_KV_HEADS))
    ]
    return list(tape.nodes), rotated


def _fixed(value: ir.Value, axis: int) -> int:
    """One of the sizes that the tracer knows: head counts and head size."""
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise GraphError(f"{value.name}: axis {axis} is {size}, expected a number")
    return size


def _count_tokens(attention_mask: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
    """Index of each sequence's last token, (B,) int32, and the longest length, int32."""
    tape = ir.tape.Tape()

    def named(name: str, op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return tape.op(op_type, inputs, attributes, name=name, output=ir.Value(name=name))

    axis = tape.op("Constant", [], {"value_ints": [1]}, output=ir.Value(name="mask_axis"))
    one = tape.op("Constant", [], {"value_float": 1.0}, output=ir.Value(name="one"))
    counted = named("counted", "Cast", attention_mask, to=int(ir.DataType.FLOAT))
    lengths = named("lengths", "ReduceSum", counted, axis, keepdims=0)
    last = named("last_tokens", "Sub", lengths, one)
    longest = named("longest", "Shape", attention_mask, start=1, end=2)
    int32 = int(ir.DataType.INT32)
    casts = [
        named("seqlens_k", "Cast", last, to=int32),
        named("total_sequence_length_k", "Cast", longest, to=int32),
    ]
    return list(tape.nodes), casts
