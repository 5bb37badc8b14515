"""Are queries, keys and values projected in one multiplication?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.passes.pack_qkv import PackQkv

ATTENTION = """(float[b,t,16] x, float[b,t,16] z, float[b,2,8,16] k0, float[b,2,8,16] v0,
int32[b] last, int32 total, float[32,8] cos, float[32,8] sin)
=> (float[b,t,64] y, float[b,2,8,16] k1, float[b,2,8,16] v1)
<float[64,16] query, float[32,16] key, float[32,16] value> {
    a = Transpose<perm = [1, 0]>(query) q = MatMul(x, a)
    b = Transpose<perm = [1, 0]>(key) k = MatMul(x, b)
    c = Transpose<perm = [1, 0]>(value) v = MatMul(x, c)
    y, k1, v1 = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2, do_rotary = 1,
        local_window_size = 8, sliding_window_cache = 1>
        (q, k, v, k0, v0, last, total, cos, sin)
}"""


@pytest.fixture
def weights(normal: Callable) -> dict[str, np.ndarray]:
    """Three projections that differ."""
    return {"query": normal(64, 16), "key": normal(32, 16), "value": normal(32, 16)}


@pytest.fixture
def feeds(normal: Callable) -> dict[str, np.ndarray]:
    """Eight first tokens, which fill the cache: rows that hold none are never written."""
    angles = np.arange(32, dtype=np.float32)[:, None] * 0.5 ** np.arange(8, dtype=np.float32)
    return {
        "x": normal(2, 8, 16),
        "k0": np.zeros((2, 2, 8, 16), dtype=np.float32),
        "v0": np.zeros((2, 2, 8, 16), dtype=np.float32),
        "last": np.full(2, 7, dtype=np.int32),
        "total": np.array(8, dtype=np.int32),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
    }


def test_three_projections_become_one(
    build: Callable, op_types: Callable, weights: dict[str, np.ndarray]
) -> None:
    model: ir.Model = build(ATTENTION, **weights)
    assert PackQkv()(model).modified
    assert op_types(model) == ["Transpose", "MatMul", "GroupQueryAttention"]
    assert model.graph.node(-1).inputs[1] is None
    assert model.graph.node(-1).inputs[2] is None
    assert model.graph.initializers["query_key_value"].const_value.shape == (128, 16)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("v = MatMul(x, c)", "v = MatMul(z, c)"),
        ("k = MatMul(x, b)", "kk = MatMul(x, b) k = Identity(kk)"),
        ("=> (", "=> (float[b,t,32] k, "),
        ("(q, k, v, k0", "(q, k, k, k0"),
    ],
    ids=["another input", "not a linear layer", "output of the graph", "read twice"],
)
def test_projection_that_others_read_or_feed_is_left_alone(
    build: Callable,
    op_types: Callable,
    weights: dict[str, np.ndarray],
    part: str,
    other: str,
) -> None:
    model = build(ATTENTION.replace(part, other), **weights)
    before = op_types(model)
    assert not PackQkv()(model).modified
    assert op_types(model) == before


def test_second_run_modifies_nothing(build: Callable, weights: dict[str, np.ndarray]) -> None:
    model = build(ATTENTION, **weights)
    PackQkv()(model)
    assert not PackQkv()(model).modified


def test_values_agree_with_three_projections(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    weights: dict[str, np.ndarray],
    feeds: dict[str, np.ndarray],
) -> None:
    model = build(ATTENTION.replace("float[b,t,16] z, ", ""), **weights)
    before = evaluate(model, **feeds)
    PackQkv()(model)
    assert_agree(evaluate(model, **feeds), before)


BIASED = (
    ATTENTION.replace(
        "float[32,16] value>",
        "float[32,16] value, float[64] query_b, float[32] key_b, float[32] value_b>",
    )
    .replace("q = MatMul(x, a)", "qm = MatMul(x, a) q = Add(qm, query_b)")
    .replace("k = MatMul(x, b)", "km = MatMul(x, b) k = Add(km, key_b)")
    .replace("v = MatMul(x, c)", "vm = MatMul(x, c) v = Add(vm, value_b)")
)


@pytest.fixture
def biases(normal: Callable) -> dict[str, np.ndarray]:
    return {"query_b": normal(64), "key_b": normal(32), "value_b": normal(32)}


def test_biases_are_stacked_with_the_projections(
    build: Callable,
    op_types: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    weights: dict[str, np.ndarray],
    biases: dict[str, np.ndarray],
    feeds: dict[str, np.ndarray],
) -> None:
    model = build(BIASED.replace("float[b,t,16] z, ", ""), **weights, **biases)
    before = evaluate(model, **feeds)
    assert PackQkv()(model).modified
    assert op_types(model) == ["Transpose", "MatMul", "Add", "GroupQueryAttention"]
    assert model.graph.initializers["query_key_value_b"].const_value.shape == (128,)
    assert not PackQkv()(model).modified
    assert_agree(evaluate(model, **feeds), before)


def test_projections_of_which_one_lacks_a_bias_are_left_alone(
    build: Callable, weights: dict[str, np.ndarray], biases: dict[str, np.ndarray]
) -> None:
    text = BIASED.replace("km = MatMul(x, b) k = Add(km, key_b)", "k = MatMul(x, b)")
    text = text.replace(", float[32] key_b", "")
    del biases["key_b"]
    assert not PackQkv()(build(text, **weights, **biases)).modified
