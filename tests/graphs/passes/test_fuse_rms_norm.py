"""Is the traced root-mean-square norm one node afterwards?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.passes.fuse_rms_norm import FuseRmsNorm

NORM = """(float[b,t,8] x) => (float[b,t,8] y)
<float two = {2}, int64[1] axes = {-1}, float epsilon = {0.01}, float[8] w> {
    square = Pow(x, two)
    mean = ReduceMean<keepdims = 1>(square, axes)
    raised = Add(mean, epsilon)
    root = Sqrt(raised)
    inverse = Reciprocal(root)
    normed = Mul(x, inverse)
    y = Mul(w, normed)
}"""
WEIGHT = np.linspace(0.5, 1.5, 8, dtype=np.float32)


def test_norm_becomes_one_node(build: Callable, op_types: Callable) -> None:
    model = build(NORM, w=WEIGHT)
    assert FuseRmsNorm()(model).modified
    assert op_types(model) == ["RMSNormalization"]
    assert model.graph.node(0).attributes.get_float("epsilon") == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("part", "other"),
    [("two = {2}", "two = {3}"), ("axes = {-1}", "axes = {1}"), ("axes = {-1}", "axes = {-2}")],
)
def test_another_exponent_or_axis_is_left_alone(
    build: Callable, op_types: Callable, part: str, other: str
) -> None:
    model = build(NORM.replace(part, other), w=WEIGHT)
    before = op_types(model)
    assert not FuseRmsNorm()(model).modified
    assert op_types(model) == before


def test_weight_that_is_a_matrix_is_left_alone(build: Callable) -> None:
    model = build(NORM.replace("float[8] w", "float[1,8] w"), w=WEIGHT[None])
    assert not FuseRmsNorm()(model).modified


def test_second_run_modifies_nothing(build: Callable) -> None:
    model = build(NORM, w=WEIGHT)
    FuseRmsNorm()(model)
    assert not FuseRmsNorm()(model).modified


def test_values_agree_with_the_norm_before(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    model: ir.Model = build(NORM, w=WEIGHT)
    x = normal(2, 3, 8) * 0.1  # small, so that epsilon shows
    before = evaluate(model, x=x)
    FuseRmsNorm()(model)
    assert_agree(evaluate(model, x=x), before)
