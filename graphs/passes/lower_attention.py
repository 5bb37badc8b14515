"""Lower the attention to onnxruntime's own kernel.

Before:  SlidingWindowAttention(query, key, value, past_key, past_value, attention_mask, cos, sin)
After:   GroupQueryAttention(query, key, value, past_key, past_value, last, total, cos, sin)
         where last = ReduceSum(float(attention_mask)) - 1 and total = Shape(attention_mask)[1]
         with rope in front of it where the kernel has none for the head size:
         RotaryEmbedding(query), RotaryEmbedding(key) and a kernel that does not rotate
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
from ..quantization.recipe import quants_for

_HEAD_MULTIPLE = 8  # head sizes that the kernel takes
_ROTARY_MULTIPLE = 16  # head sizes for which it rotates as well


def refuse_head_size(*, head_dim: int, target: str, quant: str, kv: str) -> None:
    """Refuse a head size that no kernel of a target takes.

    Raises:
        GraphError: naming the target, and a recipe of it, that takes any.
    """
    if target == "portable" or head_dim % _HEAD_MULTIPLE == 0:
        return
    other = "--target portable"
    other += "" if quant in quants_for("portable") else " --quant int8"
    other += " --kv float32" if kv == "int8" else ""
    raise GraphError(
        f"--target {target}: head_dim is {head_dim}, expected a multiple of {_HEAD_MULTIPLE}, as "
        f"onnxruntime's attention kernel does; take {other}, which runs any head size"
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
            *tensors, mask, cos, sin = node.inputs
            assert mask is not None, "the schema makes every input of the operator mandatory"
            if mask not in lengths:
                nodes, lengths[mask] = _count_tokens(mask)
                model.graph.insert_before(node, nodes)
            attributes = _attributes(node)
            rope: list[ir.Node] = []
            inputs = [*tensors, *lengths[mask], cos, sin]
            if not attributes["do_rotary"]:
                rope, rotated = _rotate(node, attributes)
                inputs = [*rotated, *tensors[len(rotated) :], *lengths[mask]]
            kernel = ir.Node(
                schema.MICROSOFT,
                "GroupQueryAttention",
                inputs,
                {name: ir.AttrInt64(name, value) for name, value in attributes.items()},
                num_outputs=len(schema.OUTPUTS),
            )
            replace_node(model.graph, node, [*rope, kernel], kernel.outputs)
            lowered += 1
        if lowered:
            model.graph.opset_imports.setdefault(schema.MICROSOFT, 1)
            model.graph.opset_imports.pop(schema.DOMAIN, None)
        return ir.passes.PassResult(model, modified=lowered > 0)


def _attributes(node: ir.Node) -> dict[str, int]:
    query, past_key = node.inputs[0], node.inputs[3]
    values = {
        "num_heads": _fixed(query, 2) // _fixed(past_key, 3),
        "kv_num_heads": _fixed(past_key, 1),
        "do_rotary": int(_fixed(past_key, 3) % _ROTARY_MULTIPLE == 0),
    }
    window = node.attributes.get_int("window", None)
    if window is not None:
        values["local_window_size"] = window
        if not node.attributes.get_int("grows", 0):
            values["sliding_window_cache"] = 1
    return values


def _rotate(node: ir.Node, heads: dict[str, int]) -> tuple[list[ir.Node], list[ir.Value]]:
    """Rope for queries and keys, by the positions of the new tokens: (B, T) int64."""
    query, key, *_, mask, cos, sin = node.inputs
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
        for x, count in ((query, "num_heads"), (key, "kv_num_heads"))
    ]
    return list(tape.nodes), rotated


def _fixed(value: ir.Value | None, axis: int) -> int:
    """One of the sizes that the tracer knows: head counts and head size."""
    size = None if value is None or value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise GraphError(f"{value and value.name}: axis {axis} is {size}, expected a number")
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
