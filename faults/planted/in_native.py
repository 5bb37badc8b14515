"""Planted faults of the graph for the native library, with its own attention kernel."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...graphs.operator.group_query_attention import GROUP_QUERY_ATTENTION, WINDOW, Slot
from ..planting import Fault, Graph
from .in_attention import shares_keys

_BEYOND_HALF = np.float32(1e6)  # times what the model caches: no row of it fits half precision


def _all_windows(graph: Graph, window: int) -> None:
    for node in graph.nodes(GROUP_QUERY_ATTENTION):
        graph.set(node, WINDOW, window)


def _stale_row(graph: Graph) -> None:
    """One row is never written: what it held before the call stays."""
    present, past, row = "present.3.value", "past_key_values.3.value", 10
    rows = np.arange(graph.rows).reshape(1, 1, -1, 1)
    is_stale = graph.add_constant("row.is_stale", rows == row)
    graph.between(present, "Where", is_stale, past)
    where = graph.maker(present)
    fresh, *_ = where.input
    where.input[:] = [is_stale, past, fresh]


def _evicts_one_more(graph: Graph) -> None:
    """The oldest row of one layer is dropped in each call."""
    order = np.minimum(np.arange(graph.rows) + 1, graph.rows - 1)
    graph.between("present.2.key", "Gather", graph.add_constant("rows.late", order), axis=2)


def _heads_by_modulo(graph: Graph) -> None:
    """Queries and outputs are exchanged so that query head h reads key/value head h % G."""
    attention = graph.nodes(GROUP_QUERY_ATTENTION)[0]
    heads, groups = graph.config.num_attention_heads, graph.kv_heads
    # Sorted by h % G: where the kernel reads group g, there are the heads that read it by modulo.
    sources = sorted(range(heads), key=lambda head: head % groups)
    columns = _columns(sources, graph.head_size)
    others = _width(graph) if not attention.input[Slot.KEY] else len(columns)
    query = np.concatenate([columns, np.arange(len(columns), others)])
    _gather_before(graph, attention, Slot.QUERY, query)
    back = _columns([sources.index(head) for head in range(heads)], graph.head_size)
    graph.between(attention.output[0], "Gather", graph.add_constant("outputs.back", back), axis=2)


def _columns(heads: list[int], head_size: int) -> np.ndarray:
    return (np.array(heads)[:, None] * head_size + np.arange(head_size)).reshape(-1)


def _width(graph: Graph) -> int:
    """Numbers of queries, keys and values of one token."""
    return (graph.config.num_attention_heads + 2 * graph.kv_heads) * graph.head_size


def _gather_before(graph: Graph, node: Any, slot: Slot, order: np.ndarray) -> None:
    name = node.input[slot]
    graph.between(name, "Gather", graph.add_constant(f"{name}.order", order), axis=2)


def _keys_overflow(graph: Graph) -> None:
    """Keys are multiplied by what half precision cannot hold, and queries divided by it."""
    attention = graph.nodes(GROUP_QUERY_ATTENTION)[0]
    queries = graph.config.num_attention_heads * graph.head_size
    keys = graph.kv_heads * graph.head_size
    factors = np.ones(_width(graph), np.float32)
    factors[:queries], factors[queries : queries + keys] = 1 / _BEYOND_HALF, _BEYOND_HALF
    slots = {Slot.QUERY: factors}
    if attention.input[Slot.KEY]:
        slots = {Slot.QUERY: factors[:queries], Slot.KEY: factors[queries : queries + keys]}
    for slot, each in slots.items():
        name = attention.input[slot]
        graph.between(name, "Mul", graph.add_constant(f"{name}.factor", each))


FAULTS = [
    Fault(
        name="native: window of 65 for 64",
        recipe="fp32-ort-native",
        plant=functools.partial(_all_windows, window=65),
        place="layer 0, cached keys",
        cause="the window is 65",
    ),
    Fault(
        name="native: window of 63 for 64, in half precision",
        recipe="int8-ort-float16-native",
        plant=functools.partial(_all_windows, window=63),
        place="layer 0, cached keys",
        cause="the window is 63",
    ),
    Fault(
        name="native: one eviction row too many in each call",
        recipe="fp32-ort-native",
        plant=_evicts_one_more,
        place="layer 2, rope",
        cause="rows are in another order",
    ),
    Fault(
        name="native: a stale row",
        recipe="int8-ort-float16-native",
        plant=_stale_row,
        place="layer 3, cached values",
        cause="row 10 is never written",
    ),
    Fault(
        name="native: query head h on key/value head h % G",
        recipe="fp32-ort-native",
        plant=_heads_by_modulo,
        place="layer 0, attention",
        cause="h % G",
        applies=shares_keys,
    ),
    Fault(
        name="native: keys beyond half precision",
        recipe="int8-ort-float16-native",
        plant=_keys_overflow,
        place="layer 0, rope",
        cause="beyond 65504",
    ),
]
