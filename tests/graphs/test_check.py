"""Is each rule that graphs keep held against a graph that breaks it?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
from tramontane.graphs.check import check
from tramontane.runtime.contract import Geometry
from tramontane.runtime.errors import GraphError


def test_graph_that_keeps_every_rule_passes(promised: ir.Model, geometry: Geometry) -> None:
    check(promised, geometry)


def rename_input(model: ir.Model) -> None:
    model.graph.inputs[0].name = "tokens"


def swap_inputs(model: ir.Model) -> None:
    model.graph.inputs.append(model.graph.inputs.pop(2))


def drop_output(model: ir.Model) -> None:
    model.graph.outputs.pop()


def widen_input(model: ir.Model) -> None:
    model.graph.inputs[2].type = ir.TensorType(ir.DataType.DOUBLE)


def shorten_cache(model: ir.Model) -> None:
    model.graph.inputs[3].shape = ir.Shape(["batch_size", 2, 8, 16])


def forget_shape(model: ir.Model) -> None:
    model.graph.outputs[0].shape = None


def raise_opset(model: ir.Model) -> None:
    model.graph.opset_imports[""] = 25


def import_domain(model: ir.Model) -> None:
    model.graph.opset_imports["acme"] = 1


def empty_weight(model: ir.Model) -> None:
    model.graph.initializers["head"].const_value = None


def drop_import(model: ir.Model) -> None:
    model.graph.node(0).domain = "acme"


def reverse_nodes(model: ir.Model) -> None:
    model.graph.insert_after(model.graph.node(-1), model.graph.node(1))


def repeat_name(model: ir.Model) -> None:
    model.graph.node(0).outputs[0].name = "columns"


def detach_output(model: ir.Model) -> None:
    model.graph.outputs[0] = ir.Value(
        name="logits", type=model.graph.outputs[0].type, shape=model.graph.outputs[0].shape
    )


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (rename_input, r"graph inputs differ from the contract: \['input_ids', 'tokens'\]"),
        (swap_inputs, r"graph inputs differ from the contract: their order"),
        (drop_output, r"graph outputs differ from the contract: \['present.0.value'\]"),
        (widen_input, r"past_key_values.0.key is float64 .*, the contract promises float32"),
        (shorten_cache, r"past_key_values.0.value is float32 \('batch_size', 2, 8, 16\), the"),
        (forget_shape, r"logits is float32 None, the contract promises float32 \('batch_size'"),
        (raise_opset, "opset is 25, expected at most 24"),
        (import_domain, "domain 'acme' is imported, expected"),
        (empty_weight, "initializer head has no values"),
        (drop_import, r"\(Gather\): domain 'acme' is not imported"),
        (reverse_nodes, r"\(MatMul\) reads columns before it is computed"),
        (repeat_name, r"several values have one name: \['columns'\]"),
        (detach_output, "output logits is computed by no node"),
    ],
)
def test_planted_fault_is_named(
    promised: ir.Model, geometry: Geometry, plant: Callable[[ir.Model], Any], message: str
) -> None:
    plant(promised)
    with pytest.raises(GraphError, match=message):
        check(promised, geometry)
