"""Planted faults of the KV cache, of batches and of positions."""

from __future__ import annotations

import functools

import numpy as np
import onnx

from ...graphs.operator.group_query_attention import GROUP_QUERY_ATTENTION, WINDOW
from ..planting import Fault, Graph


def _one_row_too_many(graph: Graph) -> None:
    """An eviction removes C - W + 2 rows."""
    body = graph.body()
    place = next(i for i, node in enumerate(body.node) if node.output[0] == "E")
    body.node[place].output[0] = "E.right"
    one = onnx.helper.make_node("CastLike", ["int64_1", "E.right"], ["one.more"])
    more = onnx.helper.make_node("Add", ["E.right", "one.more"], ["E"])
    body.node.insert(place + 1, more)
    body.node.insert(place + 1, one)


def _kept_too_long(graph: Graph) -> None:
    """Rows are stored one row late, so the newest is never kept."""
    new = graph.in_body("Where", making="source").input[2]  # rows beyond those of the past
    node = graph.in_body("Add", making=new)
    node.input[1] = "C.less"
    body = graph.body()
    place = list(body.node).index(node)
    body.node.insert(place, onnx.helper.make_node("Sub", ["C", "one.less"], ["C.less"]))
    body.node.insert(place, onnx.helper.make_node("CastLike", ["int64_1", "C"], ["one.less"]))


def _newest_first(graph: Graph) -> None:
    """Rows of one layer are returned in reverse order."""
    order = graph.add_constant("rows.reversed", np.arange(graph.rows)[::-1].copy())
    graph.between("present.2.key", "Gather", order, axis=2)


def _two_rows_swapped(graph: Graph) -> None:
    order = np.arange(graph.rows)
    order[[10, 11]] = 11, 10
    graph.between("present.3.value", "Gather", graph.add_constant("rows.order", order), axis=2)


def _presents_swapped(graph: Graph, one: str, other: str) -> None:
    names = {one: other, other: one}
    for node in graph.nodes(GROUP_QUERY_ATTENTION):
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)


def _past_of_another_layer(graph: Graph) -> None:
    names = {
        f"past_key_values.{a}.{kind}": f"past_key_values.{b}.{kind}"
        for a, b in ((1, 2), (2, 1))
        for kind in ("key", "value")
    }
    for node in graph.nodes(GROUP_QUERY_ATTENTION):
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def _layers_swapped(graph: Graph) -> None:
    for kind in ("key", "value"):
        _presents_swapped(graph, f"present.1.{kind}", f"present.2.{kind}")


def _keys_for_values(graph: Graph) -> None:
    _presents_swapped(graph, "present.5.key", "present.5.value")


def _heads_in_another_order(graph: Graph) -> None:
    order = graph.add_constant("heads.order", np.arange(graph.kv_heads)[::-1].copy())
    graph.between("present.0.key", "Gather", order, axis=1)


def _padding_counts(graph: Graph) -> None:
    """Every reader of the mask gets ones alone, so padding counts as tokens."""
    mask, ones = "attention_mask", "mask.ones"
    graph.reroute(mask, ones)
    equal = onnx.helper.make_node("Equal", [mask, mask], ["mask.equal"])
    cast = onnx.helper.make_node("Cast", ["mask.equal"], [ones], to=onnx.TensorProto.INT64)
    for node in (cast, equal):
        graph.model.graph.node.insert(0, node)


def _padding_stays_in_front(graph: Graph) -> None:
    """Tokens are not moved before their left padding, nor moved back."""
    for node in graph.nodes("GatherND"):
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]


def _cache_scales_times(graph: Graph, factor: float) -> None:
    """The scales of one layer's keys are wrong; the kernel quantizes and dequantizes with them."""
    graph.change("cache_scales.3.key", lambda scales: scales * np.float32(factor))


def _scales_of_another_layer(graph: Graph) -> None:
    graph.swap("cache_scales.0.value", "cache_scales.4.value")


def _cached_window(graph: Graph) -> None:
    for node in graph.nodes(GROUP_QUERY_ATTENTION):
        graph.set(node, WINDOW, 63)


def _logits_late(graph: Graph) -> None:
    """Each position has the logits of the one before it."""
    first = graph.add_constant("first", np.array([0]))
    last = graph.add_constant("last", np.array([-1]))
    one = graph.add_constant("one.end", np.array([1]))
    axis = graph.add_constant("axis.positions", np.array([1]))
    head = graph.maker("logits")
    head.output[0] = "logits.right"
    slice_ = onnx.helper.make_node
    graph.model.graph.node.extend(
        [
            slice_("Slice", ["logits.right", first, one, axis], ["logits.first"]),
            slice_("Slice", ["logits.right", first, last, axis], ["logits.rest"]),
            onnx.helper.make_node("Concat", ["logits.first", "logits.rest"], ["logits"], axis=1),
        ]
    )


FAULTS = [
    Fault(
        name="one eviction row too many",
        recipe="fp32-portable",
        plant=_one_row_too_many,
        place="layer 0, cached keys",
        cause="rows are evicted early",
    ),
    Fault(
        name="new rows stored one row late in the cache",
        recipe="int4-portable",
        plant=_kept_too_long,
        place="layer 0, rope",
        cause="cached rows are off by 1",
    ),
    Fault(
        name="rows newest first",
        recipe="fp32-ort",
        plant=_newest_first,
        place="layer 2, rope",
        cause="newest first",
    ),
    Fault(
        name="two rows swapped",
        recipe="int4-ort",
        plant=_two_rows_swapped,
        place="layer 3, cached values",
        cause="in another order",
    ),
    Fault(
        name="cache outputs of two layers swapped",
        recipe="fp32-ort",
        plant=_layers_swapped,
        place="layer 1, rope",
        cause="those of layer 2",
    ),
    Fault(
        name="cache inputs of two layers swapped",
        recipe="int8-ort",
        plant=_past_of_another_layer,
        place="layer 1",
        cause="those of layer 2",
    ),
    Fault(
        name="keys cached as values, values as keys",
        recipe="fp32-ort",
        plant=_keys_for_values,
        place="layer 5, rope",
        cause="keys and values are swapped",
    ),
    Fault(
        name="cached heads in another order",
        recipe="int4-ort",
        plant=_heads_in_another_order,
        place="layer 0, rope",
        cause="heads are in another order",
    ),
    Fault(
        name="an int8 cache's scales doubled",
        recipe="fp32-ort-int8",
        plant=functools.partial(_cache_scales_times, factor=2.0),
        place="layer 3, key scales",
        cause="scales are too large",
    ),
    Fault(
        name="an int8 cache's scales halved",
        recipe="int4-ort-int8",
        plant=functools.partial(_cache_scales_times, factor=0.5),
        place="layer 3, key scales",
        cause="scales are too small",
    ),
    Fault(
        name="an int8 cache with another layer's scales",
        recipe="int8-ort-int8",
        plant=_scales_of_another_layer,
        place="layer 0, value scales",
        cause="scales are too",
    ),
    Fault(
        name="window of 63 for 64, in an int8 cache",
        recipe="int8-ort-int8",
        plant=_cached_window,
        place="layer 0, cached keys",
        cause="the window is 63",
    ),
    Fault(
        name="mask ignores padding",
        recipe="fp32-portable",
        plant=_padding_counts,
        place="batch of 2",
        cause="read as tokens",
    ),
    Fault(
        name="padding on the left is not masked",
        recipe="fp32-portable",
        plant=_padding_stays_in_front,
        place="batch of 2 padded on the left",
        cause="padding on the left: it is read as tokens",
    ),
    Fault(
        name="logits shifted by a position",
        recipe="fp32-ort",
        plant=_logits_late,
        place="logits",
        cause="off by one",
    ),
]
