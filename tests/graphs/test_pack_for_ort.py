"""Are matrices packed into 8 bits for onnxruntime's kernels?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs import ops
from tramontane.graphs.pack_for_ort import PackForOrt
from tramontane.graphs.quantize import dequantize_blocks, quantize_blocks

LINEAR = """(float[b,t,256] x) => (float[b,t,6] y) <float[6,256] w> {
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
}"""
GATHER = """(int64[b,t] ids) => (float[b,t,256] rows) <float[6,256] w> {
    rows = Gather(w, ids)
}"""
IDS = np.array([[0, 5, 3], [5, 1, 2]])


def steps(matrix: np.ndarray, block: int) -> np.ndarray:
    """Each number's distance to the next one that its block can hold."""
    return np.repeat(quantize_blocks(matrix, block=block)[1], block, axis=1)


def test_linear_layer_becomes_the_kernel(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    model = build(LINEAR, w=normal(6, 256))
    assert PackForOrt()(model).modified
    assert op_types(model) == ["MatMulNBits"]
    node = model.graph.node(0)
    assert node.domain == ops.MICROSOFT
    assert {name: node.attributes.get_int(name) for name in node.attributes} == {
        "K": 256,
        "N": 6,
        "bits": 8,
        "block_size": 128,
        "accuracy_level": 4,
    }


def test_gather_becomes_the_kernel(build: Callable, op_types: Callable, normal: Callable) -> None:
    model = build(GATHER, w=normal(6, 256))
    assert PackForOrt()(model).modified
    assert op_types(model) == ["GatherBlockQuantized"]


@pytest.mark.parametrize("text", [LINEAR, GATHER])
def test_rows_that_are_not_whole_blocks_are_left_alone(
    build: Callable, normal: Callable, text: str
) -> None:
    model = build(text.replace("256", "255"), w=normal(6, 255))
    assert not PackForOrt()(model).modified


def test_product_with_an_untransposed_weight_is_left_alone(
    build: Callable, normal: Callable
) -> None:
    text = """(float[b,t,256] x) => (float[b,t,6] y) <float[256,6] w> { y = MatMul(x, w) }"""
    assert not PackForOrt()(build(text, w=normal(256, 6))).modified


@pytest.mark.parametrize("text", [LINEAR, GATHER])
def test_second_run_modifies_nothing(build: Callable, normal: Callable, text: str) -> None:
    model = build(text, w=normal(6, 256))
    PackForOrt()(model)
    assert not PackForOrt()(model).modified


@pytest.mark.parametrize(("columns", "block"), [(256, 128), (192, 64), (208, 16)])
def test_values_agree_with_the_linear_layer_within_both_roundings(
    build: Callable, evaluate: Callable, normal: Callable, columns: int, block: int
) -> None:
    w, x = normal(6, columns), normal(3, columns)
    model = build(LINEAR.replace("256", str(columns)), w=w)
    before = evaluate(model, x=x[None])["y"][0]
    PackForOrt()(model)
    error = np.abs(evaluate(model, x=x[None])["y"][0] - before)
    from_weights = np.abs(x) @ steps(w, block).T / 2
    from_activations = steps(x, block) @ (np.abs(w) + steps(w, block)).T / 2
    assert (error <= from_weights + from_activations).all()
    assert error.max() < np.abs(before).max() / 50  # the bound above grows with each column


def test_values_agree_with_gathered_rows_that_are_rounded(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    w = normal(6, 256)
    model = build(GATHER, w=w)
    PackForOrt()(model)
    rounded = dequantize_blocks(*quantize_blocks(w, block=128))
    assert_agree(evaluate(model, ids=IDS), {"rows": rounded[IDS]})


def test_weight_that_is_both_gathered_and_multiplied_is_packed(
    build: Callable, evaluate: Callable, normal: Callable
) -> None:
    text = """(int64[b,t] ids) => (float[b,t,6] y) <float[6,256] w> {
        x = Gather(w, ids)
        columns = Transpose<perm = [1, 0]>(w)
        y = MatMul(x, columns)
    }"""
    w = normal(6, 256)
    model = build(text, w=w)
    assert PackForOrt()(model).modified
    before = (w @ w.T)[IDS]
    assert np.abs(evaluate(model, ids=IDS)["y"] - before).max() < np.abs(before).max() / 50
