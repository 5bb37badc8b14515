"""Pack the projections to queries, keys and values into one multiplication.

Before:  GroupQueryAttention(x Wqᵀ, x Wkᵀ, x Wvᵀ, ...), or each with a bias, x Wqᵀ + bq
After:   GroupQueryAttention(x [Wq; Wk; Wv]ᵀ, -, -, ...), or x [Wq; Wk; Wv]ᵀ + [bq; bk; bv]
Legal because the rows of the stacked weight are the three weights' rows, so each output column
is the same sum of products, and the kernel reads queries, keys and values from one input in
this order. Only where the three read the same x, their outputs have no other readers, and the
recipe stores all three in one way.
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.GroupQueryAttention, input query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from .. import weights
from ..linear import Linear, as_linear, linear
from ..operator.group_query_attention import PROJECTIONS, is_group_query_attention

_ROLES, _STACK = ("query", "key", "value"), "query_key_value"


def parts_of(name: str) -> list[str]:
    """The names of the parameters whose rows a matrix has, one above the other.

    >>> parts_of("layers.0.attention.query_key_value.weight")[1]
    'layers.0.attention.key.weight'
    >>> parts_of("layers.0.mlp.up.weight")
    ['layers.0.mlp.up.weight']
    """
    return [name.replace(_STACK, role) for role in _ROLES] if _STACK in name else [name]


def stack_name(query: str) -> str:
    """The name of the matrix that has the rows of several, by that of the queries'.

    >>> stack_name("layers.0.attention.query.weight")
    'layers.0.attention.query_key_value.weight'
    """
    return query.replace(_ROLES[0], _STACK)


@dataclass(frozen=True, slots=True)
class _Projection:
    """A linear layer that feeds the attention, and what is added to its output."""

    layer: Linear
    add: ir.Node | None
    bias: ir.Value | None

    def remove_from(self, graph: ir.Graph) -> None:
        """Drop it; its output is no longer read."""
        if self.add is not None:
            graph.remove(self.add, safe=True)
        self.layer.remove_from(graph)


class PackQkv(ir.passes.InPlacePass):
    """Every GroupQueryAttention fed by three linear layers of one input.

    ``is_uniform`` says, by their names, whether matrices will be stored in one way: others cannot
    be rows of one.
    """

    def __init__(self, is_uniform: Callable[[list[str]], bool] = lambda _: True) -> None:
        super().__init__()
        self._is_uniform = is_uniform

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any projections were packed."""
        packed = 0
        for attention in list(model.graph):
            projections = _projections(attention)
            if projections is None:
                continue
            layers = [one.layer for one in projections]
            if not self._is_uniform([str(layer.weight.name) for layer in layers]):
                continue
            stack = _stacked(model.graph, [layer.weight for layer in layers])
            nodes, output = linear(layers[0].input, stack)
            biases = [one.bias for one in projections if one.bias is not None]
            if biases:
                add = ir.node("Add", [output, _stacked(model.graph, biases)])
                nodes, output = [*nodes, add], add.outputs[0]
            model.graph.insert_before(attention, nodes)
            for place, value in zip(PROJECTIONS, (output, None, None), strict=True):
                attention.replace_input_with(place, value)
            for projection in projections:
                projection.remove_from(model.graph)
            packed += 1
        return ir.passes.PassResult(model, modified=packed > 0)


def _stacked(graph: ir.Graph, parts: list[ir.Value]) -> ir.Value:
    """An initializer with the rows of these three."""
    stack = weights.stacked(stack_name(str(parts[0].name)), parts)
    graph.register_initializer(stack)
    return stack


def _projections(attention: ir.Node) -> list[_Projection] | None:
    """Those of queries, keys and values, where all have a bias, or none."""
    if not is_group_query_attention(attention):
        return None
    found = []
    for value in (attention.inputs[place] for place in PROJECTIONS):
        projection = None if value is None else _projection(value)
        if projection is None:
            return None
        found.append(projection)
    are_alike = len({one.bias is None for one in found}) == 1
    return found if are_alike and len({one.layer.input for one in found}) == 1 else None


def _projection(value: ir.Value) -> _Projection | None:
    """What makes a value that nothing else reads."""
    made_by, add, bias = value.producer(), None, None
    if made_by is not None and made_by.op_type == "Add" and len(made_by.inputs) == 2:
        product, bias = made_by.inputs
        if product is None or bias is None or not _is_vector(bias) or len(product.uses()) != 1:
            return None
        add, made_by = made_by, product.producer()
    layer = as_linear(made_by)
    if layer is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return _Projection(layer, add, bias)


def _is_vector(value: ir.Value) -> bool:
    return value.is_initializer() and len(weights.size_of(value)) == 1
