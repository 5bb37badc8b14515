"""Planted faults of the window, rope, heads and scores."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import onnx

from ...export.config import MistralConfig
from ...export.formats.rope_layout import halves_to_pairs
from ...export.model.rope import rope_of, rope_tables
from ...graphs.operator.group_query_attention import GROUP_QUERY_ATTENTION, WINDOW
from ...graphs.operator.schema import ROPE_TABLES
from ..planting import Fault, Graph


def _all_windows(graph: Graph, window: int) -> None:
    for node in graph.nodes(GROUP_QUERY_ATTENTION):
        graph.set(node, WINDOW, window)
    for node in graph.nodes("SlidingWindowAttention"):
        graph.set(node, "window", window)


def _attention_attribute(graph: Graph, name: str, value: float) -> None:
    for node in graph.nodes(GROUP_QUERY_ATTENTION):
        graph.set(node, name, value)


def _window_of_one_layer(graph: Graph) -> None:
    graph.set(graph.nodes(GROUP_QUERY_ATTENTION)[4], WINDOW, 32)


def _no_window_in_mask(graph: Graph) -> None:
    both = graph.in_body("And", making="is_visible")
    both.input[1] = both.input[0]  # causal alone, twice


def _edge_reads_one_less(graph: Graph) -> None:
    """Greater becomes GreaterOrEqual: one key more."""
    graph.in_body("Greater", reading="j").op_type = "GreaterOrEqual"


def _rope_tables(graph: Graph, *, factor: float = 1, shift: int = 0, sign: int = 1) -> None:
    """Tables of another theta, of later positions, or of the other direction."""
    config = graph.config
    rope = rope_of(dataclasses.replace(config, rope_theta=factor * config.rope_theta))
    cos, sin = rope.tables(config.max_position_embeddings, start=shift)
    _store_tables(graph, cos.numpy(), sign * sin.numpy())


def _half_precision_tables(graph: Graph) -> None:
    tables = (table.half().float().numpy() for table in rope_tables(graph.config))
    _store_tables(graph, *tables)


def _tables_end_early(graph: Graph, rows: int) -> None:
    positions = np.minimum(np.arange(graph.config.max_position_embeddings), rows - 1)
    _store_tables(graph, *(table.numpy()[positions] for table in rope_tables(graph.config)))


def _store_tables(graph: Graph, cos: np.ndarray, sin: np.ndarray) -> None:
    for name, table in zip(ROPE_TABLES, (cos, sin), strict=True):
        graph.store(name, table)


def _rows_in_pairs(graph: Graph) -> None:
    """As published by Mistral: rows were not reordered from pairs to halves."""
    for layer in range(graph.layers):
        name = f"layers.{layer}.attention.query_key_value.weight.transposed"
        graph.change(name, functools.partial(_to_pairs, graph.head_size, graph.kv_heads))


def _to_pairs(head_size: int, kv_heads: int, matrix: np.ndarray) -> np.ndarray:
    rows = matrix.T.copy()
    count = len(rows) - kv_heads * head_size  # of queries and keys; values follow
    rows[:count] = halves_to_pairs(rows[:count], head_dim=head_size)
    return rows.T


def _heads_by_modulo(graph: Graph) -> None:
    """Repeat keys and values so that query head h reads head h % G."""
    body = graph.body()
    place = next(i for i, node in enumerate(body.node) if node.op_type == "Attention")
    attention = body.node[place]
    (name,) = graph.names("layers.0.attention.query.weight")
    heads = graph.read(name).shape[1] // graph.head_size
    in_turn = [head % graph.kv_heads for head in range(heads)]
    turn = onnx.helper.make_node("Constant", [], ["turn"], value_ints=in_turn)
    new = [turn]
    for index, name in ((1, "keys"), (2, "values")):
        made = f"{name}.in_turn"
        new.append(onnx.helper.make_node("Gather", [name, "turn"], [made], axis=1))
        attention.input[index] = made
    for node in reversed(new):
        body.node.insert(place, node)


def _queries_without_rope(graph: Graph) -> None:
    graph.in_body("Attention").input[0] = "q"


def _positions_of_queries_late(graph: Graph) -> None:
    """Queries are rotated as if they were one position later."""
    body = graph.body()
    place = list(body.node).index(graph.in_body("RotaryEmbedding", reading="q"))
    body.node[place].input[3] = "positions.late"
    one = onnx.helper.make_node("Constant", [], ["one.late"], value_int=1)
    late = onnx.helper.make_node("Add", ["positions", "one.late"], ["positions.late"])
    body.node.insert(place, late)
    body.node.insert(place, one)


def _body_scale(graph: Graph) -> None:
    graph.in_body("Attention").attribute.append(
        onnx.helper.make_attribute("scale", 1 / graph.head_size)
    )


def _has_late_positions(config: MistralConfig) -> bool:
    return config.max_position_embeddings > 512


def shares_keys(config: MistralConfig) -> bool:
    """Whether several query heads read one key/value head."""
    return config.num_key_value_heads < config.num_attention_heads


_part = functools.partial
FAULTS = [
    Fault(
        name="window of 65 for 64",
        recipe="fp32-ort",
        plant=_part(_all_windows, window=65),
        place="layer 0, cached keys",
        cause="the window is 65",
    ),
    Fault(
        name="window of 63 for 64",
        recipe="fp32-ort",
        plant=_part(_all_windows, window=63),
        place="layer 0, cached keys",
        cause="the window is 63",
    ),
    Fault(
        name="window of 65 for 64, in int8",
        recipe="int8-ort",
        plant=_part(_all_windows, window=65),
        place="layer 0, cached keys",
        cause="the window is 65",
    ),
    Fault(
        name="window of 63 for 64, in int4",
        recipe="int4-ort",
        plant=_part(_all_windows, window=63),
        place="layer 0, cached keys",
        cause="the window is 63",
    ),
    Fault(
        name="no window in the mask",
        recipe="fp32-portable",
        plant=_no_window_in_mask,
        place="layer 0, attention",
        cause="the window is dropped",
    ),
    Fault(
        name="window one key too long in the mask: >= for >",
        recipe="int4-portable",
        plant=_edge_reads_one_less,
        place="layer 0, attention",
        cause="the window is 65",
    ),
    Fault(
        name="half a window in one layer",
        recipe="fp32-ort",
        plant=_window_of_one_layer,
        place="layer 4, cached keys",
        cause="the window is 32",
    ),
    Fault(
        name="theta of 1e6 for 1e4",
        recipe="fp32-ort",
        plant=_part(_rope_tables, factor=100),
        place="layer 0, rope",
        cause="theta is 1e+06",
    ),
    Fault(
        name="rope one position ahead",
        recipe="int8-ort",
        plant=_part(_rope_tables, shift=1),
        place="layer 0, rope",
        cause="positions from 1",
    ),
    Fault(
        name="rope rotated in the opposite direction",
        recipe="fp32-ort",
        plant=_part(_rope_tables, sign=-1),
        place="layer 0, rope",
        cause="opposite direction",
    ),
    Fault(
        name="rope in pairs for halves, in the kernel",
        recipe="fp32-ort",
        plant=_part(_attention_attribute, name="rotary_interleaved", value=1),
        place="layer 0, rope",
        cause="rope rotates pairs",
    ),
    Fault(
        name="rope in pairs for halves, in the weights",
        recipe="fp32-ort",
        plant=_rows_in_pairs,
        place="layer 0, attention.query weights",
        cause="rope layout",
    ),
    Fault(
        name="rope's tables in half precision",
        recipe="int4-ort",
        plant=_half_precision_tables,
        place="layer 0, rope",
        cause="rounded to 16 bits",
    ),
    Fault(
        name="rope's tables end after 512 positions",
        recipe="fp32-ort",
        plant=_part(_tables_end_early, rows=512),
        place="layer 0, cached keys",
        cause="stops at position 511",
        applies=_has_late_positions,
    ),
    Fault(
        name="queries without rope",
        recipe="fp32-portable",
        plant=_queries_without_rope,
        place="layer 0, attention",
        cause="queries are not rotated",
    ),
    Fault(
        name="queries rotated by one position too many",
        recipe="int4-portable",
        plant=_positions_of_queries_late,
        place="layer 0, attention",
        cause="queries are rotated by one position too many",
    ),
    Fault(
        name="scores not scaled",
        recipe="fp32-ort",
        plant=_part(_attention_attribute, name="scale", value=1.0),
        place="layer 0, attention",
        cause="scores are not scaled",
    ),
    Fault(
        name="scores divided by D for its square root",
        recipe="fp32-portable",
        plant=_body_scale,
        place="layer 0, attention",
        cause="divided by D",
    ),
    Fault(
        name="scores capped",
        recipe="int8-ort",
        plant=_part(_attention_attribute, name="softcap", value=30.0),
        place="layer 0, attention",
        cause="scores are capped",
    ),
    Fault(
        name="query head h on key/value head h % G",
        recipe="fp32-portable",
        plant=_heads_by_modulo,
        place="layer 0, attention",
        cause="h % G",
        applies=shares_keys,
    ),
]
