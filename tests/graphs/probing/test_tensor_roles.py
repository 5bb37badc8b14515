"""A decoder's matmuls are found by name, whoever exported it, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.probing.attention_caches import has_windowed_cache
from tramontane.graphs.probing.matmuls import fewest_bits
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


@pytest.mark.parametrize(
    ("kernel", "bits", "block"),
    [
        ("com.microsoft.MatMulNBits<bits = 4, block_size = 32, K = 4, N = 4>(x, w, s)", 4, 32),
        ("com.microsoft.MatMulNBits<bits = 8, block_size = 128, K = 4, N = 4>(x, w, s)", 8, 128),
        ("com.microsoft.DynamicQuantizeMatMul(x, w, s)", 8, None),
        ("MatMul(x, w)", 32, None),
        ("Gemm(x, w)", 32, None),
    ],
)
def test_bits_and_blocks_are_read_from_the_kernel(
    build: Build, kernel: str, bits: int, block: int | None
) -> None:
    text = f"(float[b,4] x, float[4] s) => (float[b,4] y) <float[4,4] w> {{ y = {kernel} }}"
    model = build(text, w=np.eye(4, dtype=np.float32))
    model.graph[0].name = "/lm_head/MatMul"
    assert fewest_bits(model.graph) == bits


def test_codes_that_are_unpacked_and_turned_before_are_seen_through(build: Build) -> None:
    text = """(float[b,4] x) => (float[b,4] y) <int8[4,4] "head.weight.elements", float[4,1] s> {
        numbers = DequantizeLinear<axis = 1, block_size = 4>("head.weight.elements", s)
        turned = Transpose<perm = [1, 0]>(numbers)
        y = MatMul(x, turned)
    }"""
    weights = {"head.weight.elements": np.eye(4, dtype=np.int8), "s": np.ones((4, 1), np.float32)}
    model = build(text, **weights)
    assert fewest_bits(model.graph) == 8


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


def test_a_cache_slides_where_the_kernel_says_so(promised: ir.Model, build: Build) -> None:
    text = """(float[b,t,4] q) => (float[b,t,4] y) {
        y, k, v = com.microsoft.GroupQueryAttention<sliding_window_cache = 1, num_heads = 1>(q) }"""
    assert has_windowed_cache(build(text).graph)
    assert not has_windowed_cache(build(text.replace("cache = 1", "cache = 0")).graph)
    assert not has_windowed_cache(promised.graph)
