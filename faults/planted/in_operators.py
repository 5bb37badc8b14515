"""Planted faults of norms, activations and additions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...export.config import MistralConfig
from ..planting import Fault, Graph

_NORMS = ("RMSNormalization", "SkipSimplifiedLayerNormalization")
_EPSILON = 1e-6


def _epsilon(graph: Graph) -> None:
    for node in graph.nodes(*_NORMS):
        graph.set(node, "epsilon", _EPSILON)


def _last_norm_skipped(graph: Graph) -> None:
    """The head reads the last norm's input."""
    norm = graph.multiplication("norm.weight")
    graph.reroute(norm.output[0], norm.output[3])


def _addition_dropped(graph: Graph) -> None:
    """After one norm, the residual sum lacks the attention's output."""
    norm = graph.multiplication("layers.3.mlp_norm.weight")
    graph.reroute(norm.output[3], norm.input[0])


def _norm_before_addition(graph: Graph) -> None:
    """A norm reads the layer's output without the residual."""
    norm = graph.multiplication("layers.2.mlp_norm.weight")
    plain = norm.input[0]
    zero = graph.add_constant("no.addition", np.zeros(1, np.float32))
    norm.input[0] = "only.added"
    graph.model.graph.node.insert(
        list(graph.model.graph.node).index(norm), _node("Mul", [plain, zero], "only.added")
    )


def _quick_gelu(graph: Graph) -> None:
    factor = graph.add_constant("quick", np.array([1.702], np.float32))
    for node in graph.nodes("Sigmoid"):
        faster = f"{node.input[0]}.faster"
        place = list(graph.model.graph.node).index(node)
        graph.model.graph.node.insert(place, _node("Mul", [node.input[0], factor], faster))
        node.input[0] = faster


def _silu(graph: Graph, layer: int) -> tuple[Any, Any]:
    """A layer's SiLU: its sigmoid, and the product of gate and sigmoid."""
    sigmoid = graph.nodes("Sigmoid")[layer]
    (product,) = (node for node in graph.nodes("Mul") if sigmoid.output[0] in node.input)
    return sigmoid, product


def _gelu(graph: Graph) -> None:
    sigmoid, product = _silu(graph, 3)
    graph.model.graph.node.remove(sigmoid)
    product.op_type = "Gelu"
    product.input[:] = sigmoid.input


def _no_activation(graph: Graph) -> None:
    sigmoid, product = _silu(graph, 1)
    graph.reroute(product.output[0], sigmoid.input[0])


def _activation_on_up(graph: Graph) -> None:
    """SiLU of up times gate."""
    gate = graph.multiplication("layers.4.mlp.gate.weight").output[0]
    up = graph.multiplication("layers.4.mlp.up.weight").output[0]
    readers = [node for node in graph.model.graph.node if {gate, up} & set(node.input)]
    graph.reroute(gate, "gate.first", readers=readers)
    graph.reroute(up, gate, readers=readers)
    graph.reroute("gate.first", up, readers=readers)
    last = max(list(graph.model.graph.node).index(graph.maker(name)) for name in (gate, up))
    for node in readers:
        place = list(graph.model.graph.node).index(node)
        if place < last:
            graph.model.graph.node.remove(node)
            graph.model.graph.node.insert(last, node)


def _has_larger_epsilon(config: MistralConfig) -> bool:
    return config.rms_norm_eps > _EPSILON


def _node(op_type: str, inputs: list[str], output: str) -> object:
    import onnx

    return onnx.helper.make_node(op_type, inputs, [output])


FAULTS = [
    Fault(
        name="epsilon of 1e-6 for 1e-5",
        recipe="fp32-ort",
        plant=_epsilon,
        applies=_has_larger_epsilon,
        place="layer 0, attention_norm",
        cause="epsilon is 1e-06",
    ),
    Fault(
        name="epsilon of 1e-6 for 1e-5, in int4",
        recipe="int4-ort",
        plant=_epsilon,
        applies=_has_larger_epsilon,
        place="layer 0, attention_norm",
        cause="epsilon is 1e-06",
    ),
    Fault(
        name="last norm skipped",
        recipe="fp32-ort",
        plant=_last_norm_skipped,
        place="norm",
        cause="the norm is skipped",
    ),
    Fault(
        name="an addition dropped after a norm",
        recipe="int8-ort",
        plant=_addition_dropped,
        place="layer 4, attention_norm",
        cause="addition",
    ),
    Fault(
        name="a norm before its addition",
        recipe="fp32-ort",
        plant=_norm_before_addition,
        place="layer 2, mlp_norm",
        cause="reads only the last term",
    ),
    Fault(
        name="QuickGELU for SiLU",
        recipe="int8-ort",
        plant=_quick_gelu,
        place="layer 0, activation",
        cause="QuickGELU",
    ),
    Fault(
        name="GELU for SiLU in one layer",
        recipe="fp32-ort",
        plant=_gelu,
        place="layer 3, activation",
        cause="GELU, expected SiLU",
    ),
    Fault(
        name="no activation in one layer",
        recipe="int4-ort",
        plant=_no_activation,
        place="layer 1, activation",
        cause="the activation is missing",
    ),
    Fault(
        name="activation on up, not on gate",
        recipe="fp32-ort",
        plant=_activation_on_up,
        place="layer 4, activation",
        cause="gate and up are swapped",
    ),
]
