"""Planted faults of ``int8-dynamic``: smoothing, and matmuls with int8 activations."""

from __future__ import annotations

import numpy as np

from ..planting import Fault, Graph, multiplied

_RECIPE = "int8-dynamic-ort"


def _norm_left_out(graph: Graph) -> None:
    """Half of a norm's channels are divided, but its readers are not multiplied."""
    graph.change("layers.0.mlp_norm.weight", multiplied(np.s_[::2], 0.5))


def _one_channel(graph: Graph) -> None:
    graph.change("layers.4.attention_norm.weight", multiplied(17, 2))


def _up_alone(graph: Graph) -> None:
    """Some rows of ``up`` are divided, but the columns of ``down`` are not multiplied."""
    graph.change("layers.2.mlp.up.weight.part_0.scales", multiplied(np.s_[3:7], 0.25))


def _last_norm_alone(graph: Graph) -> None:
    graph.change("norm.weight", multiplied(5, 0.25))


def _parts_swapped(graph: Graph) -> None:
    down = "layers.3.mlp.down.weight.part"
    graph.swap(f"{down}_1.codes", f"{down}_2.codes")
    graph.swap(f"{down}_1.scales", f"{down}_2.scales")


def _one_scale(graph: Graph) -> None:
    graph.change("layers.1.mlp.down.weight.part_3.scales", multiplied(11, 2))


def _all_positions(graph: Graph) -> None:
    """All positions share one activation scale."""
    node = graph.maker(graph.multiplication("layers.1.mlp.down").input[0])  # Cast
    while node.op_type != "Div":  # after Split, Reshape and the rounding
        node = graph.maker(node.input[0])
    scale = graph.maker(graph.maker(node.input[1]).input[0])  # behind Max
    graph.maker(scale.input[0]).input[1] = graph.add_constant("planted.axes", np.array([1, -1]))


FAULTS = [
    Fault(
        name="a norm divided, its readers not multiplied",
        recipe=_RECIPE,
        plant=_norm_left_out,
        place="layer 0, mlp.gate weights",
        cause="smoothing is applied on one side only",
    ),
    Fault(
        name="one channel of a norm doubled",
        recipe=_RECIPE,
        plant=_one_channel,
        place="layer 4, attention.query weights",
        cause="smoothing is applied on one side only: 1 of 256 columns",
    ),
    Fault(
        name="rows of up divided, columns of down not multiplied",
        recipe=_RECIPE,
        plant=_up_alone,
        place="layer 2, mlp.down weights",
        cause="smoothing is applied on one side only: 4 of",
    ),
    Fault(
        name="a channel of the last norm divided, the head's column not multiplied",
        recipe=_RECIPE,
        plant=_last_norm_alone,
        place="head weights",
        cause="smoothing is applied on one side only: 1 of",
    ),
    Fault(
        name="parts of a projection swapped",
        recipe=_RECIPE,
        plant=_parts_swapped,
        place="layer 3, mlp.down weights",
        cause="quantized values of 512 of",
    ),
    Fault(
        name="the scale of a row doubled in one part",
        recipe=_RECIPE,
        plant=_one_scale,
        place="layer 1, mlp.down weights",
        cause="the scale of 1 of",
    ),
    Fault(
        name="activations quantized with one scale for all positions",
        recipe=_RECIPE,
        plant=_all_positions,
        place="layer 1, mlp.down",
        cause="with one scale for all positions",
    ),
]
