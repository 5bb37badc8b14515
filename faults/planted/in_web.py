"""Planted faults of int8 matmuls for target ``web``."""

from __future__ import annotations

import numpy as np

from ..planting import Fault, Graph, multiplied

_QKV = "layers.0.attention.query_key_value"
_DOWN = "layers.3.mlp.down"


def _one_scale(graph: Graph) -> None:
    graph.change("layers.2.mlp.gate.weight.column_scales", multiplied(11, 2))


def _middle(graph: Graph) -> None:
    node = graph.multiplication("layers.1.mlp.up")
    node.input[5] = graph.add_constant("planted.middle", np.array(129, np.uint8))


def _too_few_steps(graph: Graph) -> None:
    """Quantized activations overflow."""
    node = graph.maker(graph.multiplication(_QKV).input[0])  # Cast
    while node.op_type != "Div":
        node = graph.maker(node.input[0])
    scale = graph.maker(graph.maker(node.input[1]).input[0])  # behind Max
    scale.input[1] = graph.add_constant("planted.steps", np.array(254, np.float32))


def _halves_swapped(graph: Graph) -> None:
    """The products of the coarse and of the fine half of the activations are swapped."""
    product = graph.multiplication(_DOWN)
    split = next(node for node in graph.nodes("Split") if node.input[0] == product.output[0])
    split.output[:] = reversed(split.output)


FAULTS = [
    Fault(
        name="web: one scale of a column doubled",
        recipe="int8-web",
        plant=_one_scale,
        place="layer 2, mlp.gate weights",
        cause="the scale of 1 of 768 rows is 2 times",
    ),
    Fault(
        name="web: the zero point of the weights off by one",
        recipe="int8-web",
        plant=_middle,
        place="layer 1, mlp.up weights",
        cause="the zero point of 768 of 768 rows",
    ),
    Fault(
        name="web: activations quantized to too few steps",
        recipe="int8-web",
        plant=_too_few_steps,
        place="layer 0, attention.query weights",
        cause="times what they should be",
    ),
    Fault(
        name="web: the two roundings swapped",
        recipe="int8-web",
        plant=_halves_swapped,
        place="layer 3, mlp.down weights",
        cause="all weights are 0.5 times what they should be",
    ),
]
