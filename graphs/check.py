"""Checks of every graph that we write: against the contract, and against rules of ONNX.

Ours instead of onnx_ir's ``CheckerPass``, which finds three of the faults that are found here: a
missing import, an order that is not topological, and a name that is used twice. It accepts a
weight without numbers, an output that no node computes, and every opset and domain; and it
serializes the graph, which would compute small weights after each pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..runtime import contract
from ..runtime.errors import GraphError
from .operator import schema

_DOMAINS = {"", schema.DOMAIN, schema.MICROSOFT}
_LAST_OPSET = 24  # onnxruntime has no CPU kernels for Attention since 25


def check(model: ir.Model, geometry: contract.Geometry) -> None:
    """Check a graph against the contract and the rules of ONNX.

    Raises:
        GraphError: naming the tensor or node, what was found and what was expected.
    """
    for problem in (*_broken_promises(model.graph, geometry), *_broken_rules(model)):
        raise GraphError(problem)


def _broken_promises(graph: ir.Graph, geometry: contract.Geometry) -> Iterator[str]:
    promised = contract.inputs(geometry)
    if not any(value.name == contract.NUM_LOGITS_TO_KEEP for value in graph.inputs):
        promised = promised[:-1]  # a pass adds it
    for kind, values, tensors in (
        ("inputs", graph.inputs, promised),
        ("outputs", graph.outputs, contract.outputs(geometry)),
    ):
        found, expected = [v.name for v in values], [t.name for t in tensors]
        if found != expected:
            odd = sorted(set(map(str, found)) ^ set(expected)) or "their order"
            yield f"graph {kind} differ from the contract: {odd}"
            return
        for value, tensor in zip(values, tensors, strict=True):
            dtype = None if value.dtype is None else str(value.dtype.numpy())
            shape = (
                None
                if value.shape is None
                else tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)
            )
            if (dtype, shape) != (tensor.dtype, tensor.shape):
                yield (
                    f"{tensor.name} is {dtype} {shape}, the contract promises "
                    f"{tensor.dtype} {tensor.shape}"
                )


def _broken_rules(model: ir.Model) -> Iterator[str]:
    graph = model.graph
    opset = graph.opset_imports.get("", 0)
    if not 1 <= opset <= _LAST_OPSET:
        yield f"opset is {opset}, expected at most {_LAST_OPSET}"
    for domain in set(graph.opset_imports) - _DOMAINS:
        yield f"domain {domain!r} is imported, expected {sorted(_DOMAINS)}"
    for name, value in graph.initializers.items():
        if value.const_value is None:
            yield f"initializer {name} has no values"
    known = {*graph.inputs, *graph.initializers.values()}
    for node in graph:
        label = f"node {node.name or node.op_type} ({node.op_type})"
        if node.domain not in graph.opset_imports:
            yield f"{label}: domain {node.domain!r} is not imported"
        for read in node.inputs:
            if read is not None and read not in known:
                yield f"{label} reads {read.name} before it is computed"
        known.update(node.outputs)
    names = [known_value.name for known_value in known if known_value.name]
    if len(names) != len(set(names)):
        twice = sorted({name for name in names if names.count(name) > 1})
        yield f"several values have one name: {twice[:3]}"
    for value in graph.outputs:
        if value not in known:
            yield f"output {value.name} is computed by no node"
