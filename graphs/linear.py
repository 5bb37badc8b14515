"""Finds and builds linear layers in a graph.

A linear layer is traced as ``MatMul(x, Transpose(weight))`` with the weight as published,
(N, K): one row per output. Passes keep that form until one of them lowers it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from . import weights


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer: ``output = input @ weight.T``."""

    matmul: ir.Node
    transpose: ir.Node

    @property
    def input(self) -> ir.Value:
        """(B, T, K) float32."""
        return _present(self.matmul.inputs[0])

    @property
    def output(self) -> ir.Value:
        """(B, T, N) float32."""
        return self.matmul.outputs[0]

    @property
    def weight(self) -> ir.Value:
        """(N, K), an initializer."""
        return _present(self.transpose.inputs[0])

    def replace_with(self, graph: ir.Graph, node: ir.Node) -> None:
        """Let ``node``, which has one output, do the multiplication."""
        replace_node(graph, self.matmul, [node], node.outputs)
        self._drop_transpose(graph)

    def remove_from(self, graph: ir.Graph) -> None:
        """Drop the layer, whose output is no longer read."""
        graph.remove(self.matmul, safe=True)
        self._drop_transpose(graph)

    def _drop_transpose(self, graph: ir.Graph) -> None:
        if not self.transpose.outputs[0].uses():
            graph.remove(self.transpose, safe=True)


def linear(x: ir.Value, weight: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """Build a linear layer in the traced form; return its nodes and its output."""
    tape = ir.tape.Tape()
    columns = tape.op("Transpose", [weight], {"perm": [1, 0]})
    output = tape.op("MatMul", [x, columns])
    return list(tape.nodes), output


def as_linear(node: ir.Node | None) -> Linear | None:
    """The linear layer that ends in this node, if there is one."""
    if node is None or node.op_type != "MatMul" or node.inputs[1] is None:
        return None
    transpose = node.inputs[1].producer()
    if transpose is None or transpose.op_type != "Transpose":
        return None
    source = transpose.inputs[0]
    if source is None or not source.is_initializer():
        return None
    if tuple(transpose.attributes.get_ints("perm", ())) != (1, 0):
        return None
    return Linear(node, transpose)


def linears(graph: ir.Graph) -> Iterator[Linear]:
    """All linear layers in the order in which they run; the graph may change meanwhile."""
    for node in list(graph):
        found = as_linear(node)
        if found is not None:
            yield found


def is_product(x: ir.Value) -> bool:
    """Whether it is the gated product, the only one that a linear layer reads."""
    producer = x.producer()
    return producer is not None and producer.op_type == "Mul"


def gathers(graph: ir.Graph) -> Iterator[ir.Node]:
    """All gathers of rows from a matrix of weights; the graph may change meanwhile."""
    for node in list(graph):
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        source = node.inputs[0]
        if source is None or not source.is_initializer() or source.dtype != ir.DataType.FLOAT:
            continue
        if len(weights.size_of(source)) == 2 and not weights.is_scales(source):
            yield node


def rank_of(ids: ir.Value | None) -> int:
    """Sizes of a traced tensor."""
    shape = None if ids is None else ids.shape
    assert shape is not None, "a traced value's rank is known"
    return len(shape)


def replace_node(
    graph: ir.Graph, old: ir.Node, new: Sequence[ir.Node], outputs: Sequence[ir.Value]
) -> None:
    """Put nodes in place of one; its outputs' names, types, shapes and uses go to ``outputs``."""
    graph.insert_before(old, new)
    for before, after in zip(old.outputs, outputs, strict=True):
        move_uses(before, after)
    graph.remove(old, safe=True)


def move_uses(before: ir.Value, after: ir.Value) -> None:
    """Replace ``before`` by ``after``, which takes its name, type, shape and readers."""
    name, before.name = before.name, None
    after.name, after.type, after.shape = name, before.type, before.shape
    before.replace_all_uses_with(after, replace_graph_outputs=True)


def _present(value: ir.Value | None) -> ir.Value:
    assert value is not None, "as_linear has seen the input"
    return value
