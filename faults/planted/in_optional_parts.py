"""Planted faults of parts that only some models have: biases, norms of heads, other layers."""

from __future__ import annotations

from typing import Any

from ...export.config import MistralConfig
from ...graphs.operator.group_query_attention import (
    GROUP_QUERY_ATTENTION,
    ROPE_TABLES,
    ROTATES,
    WINDOW,
)
from ..planting import Fault, Graph

_PROJECTIONS = "layers.{}.attention.query_key_value.bias"


def _attention(graph: Graph, layer: int) -> Any:
    return graph.nodes(GROUP_QUERY_ATTENTION)[layer]


def _other_window(graph: Graph) -> None:
    """A layer gets a window of another size, or one where it has none."""
    layer, windows = 1, graph.config.windows
    window = windows[layer]
    sizes = {size for size in windows if size not in (None, window)}
    other = 2 * window if window is not None and not sizes else min(sizes)
    graph.set(_attention(graph, layer), WINDOW, other)


def _window_where_none_is(graph: Graph) -> None:
    windows = graph.config.windows
    window = next(size for size in windows if size is not None)
    graph.set(_attention(graph, windows.index(None)), WINDOW, window)


def _bias_dropped(graph: Graph) -> None:
    add = graph.multiplication(_PROJECTIONS.format(1))
    graph.reroute(add.output[0], add.input[0])
    graph.model.graph.node.remove(add)


def _biases_exchanged(graph: Graph) -> None:
    graph.swap(_PROJECTIONS.format(0), _PROJECTIONS.format(1))


def _head_norm_skipped(graph: Graph) -> None:
    norm = graph.multiplication("layers.1.attention.key_norm.weight")
    graph.reroute(norm.output[0], norm.input[0])


def _head_norms_exchanged(graph: Graph) -> None:
    graph.swap("layers.0.attention.query_norm.weight", "layers.0.attention.key_norm.weight")


def _rope_in_a_layer_without(graph: Graph) -> None:
    node = _attention(graph, graph.config.unrotated_layers[0])
    graph.set(node, ROTATES, 1)
    missing = max(ROPE_TABLES) + 1 - len(node.input)
    node.input.extend([""] * max(missing, 0))
    for place, name in zip(ROPE_TABLES, ("cos_cache", "sin_cache"), strict=True):
        node.input[place] = name


def _no_rope_in_a_layer_with(graph: Graph) -> None:
    node = _attention(graph, _first_rotated(graph.config))
    graph.set(node, ROTATES, 0)
    for place in ROPE_TABLES:
        node.input[place] = ""


def _first_rotated(config: MistralConfig) -> int:
    return next(n for n in range(config.num_hidden_layers) if n not in config.unrotated_layers)


def _has_windows_by_layer(config: MistralConfig) -> bool:
    return bool(config.layer_windows)


def _has_mixed_caches(config: MistralConfig) -> bool:
    return _has_windows_by_layer(config) and None in config.windows


def _has_biases(config: MistralConfig) -> bool:
    return config.has_qkv_bias


def _has_head_norms(config: MistralConfig) -> bool:
    return config.has_head_norms


def _has_layers_without_rope(config: MistralConfig) -> bool:
    return bool(config.unrotated_layers)


FAULTS = [
    Fault(
        name="the window of another layer",
        recipe="fp32-ort",
        plant=_other_window,
        applies=_has_windows_by_layer,
        place="layer 1, ",
        cause="the window is",
    ),
    Fault(
        name="a window in a layer without one",
        recipe="fp32-ort",
        plant=_window_where_none_is,
        applies=_has_mixed_caches,
        place="layer ",
        cause="as in another layer, expected none",
    ),
    Fault(
        name="biases dropped in one layer",
        recipe="int8-ort",
        plant=_bias_dropped,
        applies=_has_biases,
        place="layer 1, query_key_value bias",
        cause="the bias is missing",
    ),
    Fault(
        name="biases of two layers exchanged",
        recipe="fp32-ort",
        plant=_biases_exchanged,
        applies=_has_biases,
        place="layer 0, query_key_value bias",
        cause="layers are swapped: the bias is that of layer 1",
    ),
    Fault(
        name="norm of keys' heads skipped in one layer",
        recipe="int8-ort",
        plant=_head_norm_skipped,
        applies=_has_head_norms,
        place="layer 1, key norm",
        cause="the norm of heads is skipped",
    ),
    Fault(
        name="norms of queries' and keys' heads exchanged",
        recipe="fp32-ort",
        plant=_head_norms_exchanged,
        applies=_has_head_norms,
        place="layer 0, query norm",
        cause="is that of layers.0.attention.key_norm.weight",
    ),
    Fault(
        name="rope in a layer that has none",
        recipe="fp32-ort",
        plant=_rope_in_a_layer_without,
        applies=_has_layers_without_rope,
        place="layer ",
        cause="expected none in this layer",
    ),
    Fault(
        name="no rope in a layer that has it",
        recipe="fp32-ort",
        plant=_no_rope_in_a_layer_with,
        applies=_has_layers_without_rope,
        place="layer ",
        cause="keys are cached before rope",
    ),
]
