"""Is onnxruntime's attention kernel replaced by our own? ``tests/native`` compares their values."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tramontane.graphs.operator.group_query_attention import Slot, slot
from tramontane.graphs.passes.use_native_attention import UseNativeAttention

ATTENTION = """(float[b,t,64] q, float[b,2,8,16] k0, float[b,2,8,16] v0, int32[b] last,
int32 total) => (float[b,t,32] y, float[b,2,8,16] k1, float[b,2,8,16] v1) {
    y, k1, v1 = com.microsoft.GroupQueryAttention<num_heads = 2, kv_num_heads = 2>
        (q, , , k0, v0, last, total)
}"""


def test_the_kernel_is_replaced_and_its_defaults_are_written(build: Callable) -> None:
    model: ir.Model = build(ATTENTION)
    assert UseNativeAttention()(model).modified
    (node,) = model.graph
    assert (node.domain, node.op_type) == ("tramontane.native", "GroupQueryAttention")
    written = {name: value.as_int() for name, value in node.attributes.items()}
    defaults = {"do_rotary": 0, "local_window_size": 0, "sliding_window_cache": 0}
    assert written == {"num_heads": 2, "kv_num_heads": 2, **defaults}
    assert not UseNativeAttention()(model).modified


def test_the_kernel_reads_the_mask_where_the_graph_has_one(build: Callable) -> None:
    with_mask = ATTENTION.replace("int32 total)", "int32 total, int64[b,s] attention_mask)")
    for text, expected in ((ATTENTION, None), (with_mask, "attention_mask")):
        model: ir.Model = build(text)
        UseNativeAttention()(model)
        (node,) = model.graph
        mask = slot(node, Slot.ATTENTION_MASK)
        assert (None if mask is None else mask.name) == expected


def test_the_cache_is_held_in_half_precision_where_asked(build: Callable) -> None:
    model: ir.Model = build(ATTENTION)
    assert UseNativeAttention(in_half=True)(model).modified
    types = {str(value.name): value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    assert {types[name] for name in ("k0", "v0", "k1", "v1")} == {ir.DataType.FLOAT16}
    assert {types[name] for name in ("q", "y")} == {ir.DataType.FLOAT}
    assert not UseNativeAttention(in_half=True)(model).modified


def test_other_nodes_stay(build: Callable) -> None:
    model = build("(float[2] x) => (float[2] y) { y = Relu(x) }")
    assert not UseNativeAttention()(model).modified
