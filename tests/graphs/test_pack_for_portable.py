"""Are matrices packed into 8 bits with standard operators?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs.pack_for_portable import PackForPortable
from tramontane.graphs.quantize import dequantize_blocks, quantize_blocks

LINEAR = """(float[b,t,256] x) => (float[b,t,6] y) <float[6,256] w> {
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
}"""
GATHER = """(int64[b,t] ids) => (float[b,t,256] rows) <float[6,256] w> {
    rows = Gather(w, ids)
}"""
IDS = np.array([[0, 5, 3], [5, 1, 2]])


def rounded(matrix: np.ndarray) -> np.ndarray:
    return dequantize_blocks(*quantize_blocks(matrix, block=128))


def test_linear_layer_unpacks_its_weight(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    model = build(LINEAR, w=normal(6, 256))
    assert PackForPortable()(model).modified
    assert op_types(model) == ["DequantizeLinear", "Transpose", "MatMul"]
    sizes = {v.name: tuple(v.shape.numpy()) for v in model.graph.node(0).inputs}
    assert sizes == {"w.codes": (6, 256), "w.scales": (6, 2), "w.zero_points": (6, 2)}


def test_gather_unpacks_the_rows_it_gathers(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    model = build(GATHER, w=normal(6, 256))
    assert PackForPortable()(model).modified
    assert op_types(model) == ["Gather", "Gather", "Gather", "DequantizeLinear"]


@pytest.mark.parametrize("text", [LINEAR, GATHER])
def test_columns_that_are_not_whole_blocks_are_left_alone(
    build: Callable, op_types: Callable, normal: Callable, text: str
) -> None:
    model = build(text.replace("256", "255"), w=normal(6, 255))
    before = op_types(model)
    assert not PackForPortable()(model).modified
    assert op_types(model) == before


def test_gather_of_columns_is_left_alone(build: Callable, normal: Callable) -> None:
    model = build(GATHER.replace("Gather(", "Gather<axis = 1>("), w=normal(6, 256))
    assert not PackForPortable()(model).modified


@pytest.mark.parametrize("text", [LINEAR, GATHER])
def test_second_run_modifies_nothing(build: Callable, normal: Callable, text: str) -> None:
    model = build(text, w=normal(6, 256))
    PackForPortable()(model)
    assert not PackForPortable()(model).modified


def test_values_agree_with_the_linear_layer_over_rounded_weights(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    w, x = normal(6, 256), normal(2, 3, 256)
    before = evaluate(build(LINEAR, w=rounded(w)), x=x)
    model = build(LINEAR, w=w)
    PackForPortable()(model)
    assert_agree(evaluate(model, x=x), before)


def test_values_agree_with_the_linear_layer_within_half_a_step_of_each_weight(
    build: Callable, evaluate: Callable, normal: Callable
) -> None:
    w, x = normal(6, 256), normal(2, 3, 256)
    model = build(LINEAR, w=w)
    before = evaluate(model, x=x)["y"]
    PackForPortable()(model)
    half_steps = np.repeat(quantize_blocks(w, block=128)[1], 128, axis=1) / 2
    bound = np.abs(x) @ half_steps.T + 1e-4
    assert (np.abs(evaluate(model, x=x)["y"] - before) <= bound).all()


def test_values_agree_with_gathered_rows_that_are_rounded(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    w = normal(6, 256)
    model = build(GATHER, w=w)
    PackForPortable()(model)
    assert_agree(evaluate(model, ids=IDS), {"rows": rounded(w)[IDS]})
