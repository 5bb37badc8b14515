"""Matmuls are found by name in the graphs of every exporter, and no other node is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.probing.tensor_roles import find_tensor_roles
from tramontane.runtime.errors import ContractError

Build = Callable[..., ir.Model]
# One layer, as other exporters name it: N is the node's name, @ a weight.
ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HEADER = """(int64[b,t] input_ids) => (float[b,t,4] logits) <float[4,4] table, float[4,4] w> {
    x = Gather(table, input_ids)
"""


def named(
    build: Build, pattern: str = "/model/layers.{layer}/self_attn/{role}/MatMul"
) -> ir.Model:
    """A chain of multiplications whose nodes alone are named."""
    names = [pattern.format(layer=layer, role=role) for layer in (0, 1) for role in ROLES]
    lines = [f"y{i + 1} = MatMul(y{i}, w)" for i in range(len(names))]
    text = HEADER + "y0 = Identity(x)\n" + "\n".join(lines) + "\nlogits = MatMul(y14, w) }"
    model = build(text, table=np.eye(4, dtype=np.float32), w=np.eye(4, dtype=np.float32))
    multiplications = [node for node in model.graph if node.op_type == "MatMul"]
    for node, name in zip(multiplications, [*names, "/lm_head/MatMul"], strict=True):
        node.name = name
    return model


@pytest.mark.parametrize(
    "pattern",
    [
        "/model/layers.{layer}/self_attn/{role}/MatMul",
        "/model/layers.{layer}/mlp/{role}/MatMul_Q4",
    ],
)
def test_nodes_named_after_modules_are_found_layer_by_layer(build: Build, pattern: str) -> None:
    roles = find_tensor_roles(named(build, pattern).graph, num_layers=2)
    assert roles.embedding == "x"
    assert [linear.source for linear in roles.layers[1].values()] == [
        f"y{i}" for i in range(7, 14)
    ]
    assert (roles.head.source, roles.head.result, roles.head.layer) == ("y14", "logits", None)
    assert roles.names(0) == [f"y{i}" for i in range(8)]


def test_rows_whose_last_block_was_filled_are_those_behind_the_slice(build: Build) -> None:
    model = named(build)
    gather = next(node for node in model.graph if node.op_type == "Gather")
    gather.op_type, gather.domain = "GatherBlockQuantized", "com.microsoft"
    gather.outputs[0].name = "filled"
    whole = next(node for node in model.graph if node.op_type == "Identity")
    assert find_tensor_roles(model.graph, num_layers=2).embedding == "filled"
    whole.op_type = "Slice"
    assert find_tensor_roles(model.graph, num_layers=2).embedding == "y0"


def test_rows_of_a_matrix_that_is_stored_transposed_are_those_behind_the_transpose(
    build: Build,
) -> None:
    model = named(build)
    gather, following = list(model.graph)[:2]
    following.op_type = "Transpose"
    assert find_tensor_roles(model.graph, num_layers=2).embedding == "x"
    gather.attributes["axis"] = ir.AttrInt64("axis", 1)
    assert find_tensor_roles(model.graph, num_layers=2).embedding == "y0"


def test_a_layer_that_lacks_one_is_refused_by_its_name(build: Build) -> None:
    model = named(build)
    for node in model.graph:
        node.name = (node.name or "").replace("layers.1/self_attn/up_proj", "layers.1/other")
    with pytest.raises(ContractError, match=r"layer 1: no matmul named like mlp.up"):
        find_tensor_roles(model.graph, num_layers=2)
    with pytest.raises(ContractError, match="layer 2: "):
        find_tensor_roles(named(build).graph, num_layers=3)


def test_a_graph_without_a_head_or_an_embedding_is_refused(build: Build) -> None:
    headless = named(build)
    headless.graph[-1].name = "/other/MatMul"
    with pytest.raises(ContractError, match="lm_head: no such node"):
        find_tensor_roles(headless.graph, num_layers=2)
    model = named(build)
    model.graph[0].op_type = "Flatten"
    with pytest.raises(ContractError, match="the embedding: no such node"):
        find_tensor_roles(model.graph, num_layers=2)


def test_a_word_within_another_is_no_name(build: Build) -> None:
    model = named(build, "/model/layers.{layer}/some{role}x/MatMul")
    with pytest.raises(ContractError, match="no matmul"):
        find_tensor_roles(model.graph, num_layers=2)


def test_a_sum_of_integers_is_followed_to_where_it_is_a_number(build: Build) -> None:
    text = (
        HEADER
        + """r, s, z = DynamicQuantizeLinear(x)
        sums = MatMulInteger(r, q, z)
        numbers = Cast<to = 1>(sums)
        logits = Mul(numbers, s)
    }"""
    )
    table = np.eye(4, dtype=np.float32)
    text = text.replace("float[4,4] w", "int8[4,4] q")
    model = build(text, table=table, q=np.eye(4, dtype=np.int8))
    next(node for node in model.graph if node.op_type == "MatMulInteger").name = "/lm_head/MatMul"
    head = find_tensor_roles(model.graph, num_layers=0).head
    assert (head.source, head.result, head.bits) == ("x", "logits", 8)
