"""Pack the projections to queries, keys and values into one multiplication.

Before:  GroupQueryAttention(x Wqᵀ, x Wkᵀ, x Wvᵀ, ...)
After:   GroupQueryAttention(x [Wq; Wk; Wv]ᵀ, -, -, ...)
Legal because the rows of the stacked weight are the three weights' rows, so each output column
is the same sum of products, and the kernel reads queries, keys and values from one input in
this order. Only where the three read the same x, their outputs have no other readers, and the
recipe stores all three in one way.
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.GroupQueryAttention, input query.
"""

from __future__ import annotations

from collections.abc import Callable

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
            if not self._is_uniform([str(one.weight.name) for one in projections]):
                continue
            stack = weights.stacked(
                stack_name(str(projections[0].weight.name)),
                [projection.weight for projection in projections],
            )
            model.graph.register_initializer(stack)
            nodes, output = linear(projections[0].input, stack)
            model.graph.insert_before(attention, nodes)
            for place, value in zip(PROJECTIONS, (output, None, None), strict=True):
                attention.replace_input_with(place, value)
            for projection in projections:
                projection.remove_from(model.graph)
            packed += 1
        return ir.passes.PassResult(model, modified=packed > 0)


def _projections(attention: ir.Node) -> list[Linear] | None:
    if not is_group_query_attention(attention):
        return None
    found = []
    for value in (attention.inputs[place] for place in PROJECTIONS):
        projection = as_linear(value.producer()) if value is not None else None
        if projection is None or len(projection.output.uses()) != 1:
            return None
        if projection.output.is_graph_output():
            return None
        found.append(projection)
    return found if len({projection.input for projection in found}) == 1 else None
