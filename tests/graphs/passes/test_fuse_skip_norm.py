"""Is a residual addition done by the norm that reads it?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs.operator import schema
from tramontane.graphs.passes.fuse_skip_norm import SUM_OUTPUT, FuseSkipNorm

RESIDUAL = """(float[b,t,8] x, float[b,t,8] y) => (float[b,t,8] out, float[b,t,8] residual)
<float[8] w> {
    residual = Add(x, y)
    normed = RMSNormalization<axis = -1, epsilon = 0.01>(residual, w)
    out = Add(residual, normed)
}"""
WEIGHT = np.linspace(0.5, 1.5, 8, dtype=np.float32)


def test_addition_and_norm_become_one_node(build: Callable, op_types: Callable) -> None:
    model = build(RESIDUAL, w=WEIGHT)
    assert FuseSkipNorm()(model).modified
    assert op_types(model) == ["SkipSimplifiedLayerNormalization", "Add"]
    node = model.graph.node(0)
    assert node.domain == schema.MICROSOFT
    assert node.attributes.get_float("epsilon") == pytest.approx(0.01)
    assert node.outputs[SUM_OUTPUT] is model.graph.outputs[1]


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("float[b,t,8] y)", "float[b,1,8] y)"),
        ("float[b,t,8] y)", "float[8] y)"),
        ("axis = -1", "axis = 1"),
        ("RMSNormalization<axis = -1, epsilon = 0.01>(residual, w)", "Mul(residual, w)"),
        ("residual = Add", "residual = Sub"),
    ],
)
def test_broadcast_or_another_operator_is_left_alone(
    build: Callable, op_types: Callable, part: str, other: str
) -> None:
    assert part in RESIDUAL
    model = build(RESIDUAL.replace(part, other), w=WEIGHT)
    before = op_types(model)
    assert not FuseSkipNorm()(model).modified
    assert op_types(model) == before


def test_second_run_modifies_nothing(build: Callable) -> None:
    model = build(RESIDUAL, w=WEIGHT)
    FuseSkipNorm()(model)
    assert not FuseSkipNorm()(model).modified


def test_values_agree_for_the_norm_and_for_others_who_read_the_sum(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    model = build(RESIDUAL, w=WEIGHT)
    feeds = {"x": normal(2, 3, 8) * 0.1, "y": normal(2, 3, 8) * 0.1}
    before = evaluate(model, **feeds)
    FuseSkipNorm()(model)
    assert_agree(evaluate(model, **feeds), before)
