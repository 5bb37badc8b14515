"""Do onnxruntime's kernels take the place of layers and gathers, and yield their numbers?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs.operator import schema
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.pack_for_ort import PackForOrt
from tramontane.graphs.quantization.scheme import Scheme

from .small_graphs import GATHER, IDS, every_scheme, every_width, packing, rounded

LINEAR = """(float[b,t,{K}] x) => (float[b,t,6] z) <float[6,{K}] w> {{
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
    z = Identity(y)
}}"""


def half_steps(matrix: np.ndarray, bits: int, block: int) -> np.ndarray:
    """How far each number may lie from its own."""
    scales = quantize(matrix, Scheme(bits=bits, block=block)).scales
    return np.repeat(scales, block, axis=1)[:, : matrix.shape[1]] / 2


@every_scheme
@every_width
def test_linear_layer_becomes_the_kernel(
    build: Callable, op_types: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    model = build(LINEAR.format(K=columns), w=normal(6, columns))
    assert packing(PackForOrt, bits, block)(model).modified
    assert op_types(model) == ["MatMulNBits", "Identity"]
    node, blocks = model.graph.node(0), -(-columns // block)
    assert node.domain == schema.MICROSOFT
    assert {name: node.attributes.get_int(name) for name in node.attributes} == {
        "K": columns,
        "N": 6,
        "bits": bits,
        "block_size": block,
        "accuracy_level": 4,
    }
    sizes = {v.name: tuple(v.shape.numpy()) for v in node.inputs[1:]}
    expected = {"w.codes": (6, blocks, block * bits // 8), "w.scales": (6, blocks)}
    if bits == 4:
        expected["w.packed_zero_points"] = (6, -(-blocks // 2))
    assert sizes == expected


@every_scheme
@every_width
def test_gather_becomes_the_kernel(
    build: Callable, op_types: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    model = build(GATHER.format(K=columns), w=normal(6, columns))
    assert packing(PackForOrt, bits, block)(model).modified
    assert op_types(model) == ["GatherBlockQuantized"]
    node = model.graph.node(0)
    assert node.domain == schema.MICROSOFT
    assert {name: node.attributes.get_int(name) for name in node.attributes} == {
        "bits": bits,
        "block_size": block,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    names = ["w.rows", "ids", "w.scales", *(["w.packed_zero_points"] if bits == 4 else [])]
    assert [value.name for value in node.inputs] == names


@every_scheme
@pytest.mark.parametrize("text", [LINEAR, GATHER], ids=["linear", "gather"])
def test_matrix_that_is_an_input_is_left_alone(
    build: Callable, text: str, bits: int, block: int
) -> None:
    given = text.format(K=256).replace(") =>", ", float[6,256] w) =>", 1)
    model = build(given.replace("<float[6,256] w>", ""))
    assert not packing(PackForOrt, bits, block)(model).modified


@every_scheme
@pytest.mark.parametrize("text", [LINEAR, GATHER], ids=["linear", "gather"])
def test_second_run_modifies_nothing(
    build: Callable, normal: Callable, text: str, bits: int, block: int
) -> None:
    model = build(text.format(K=256), w=normal(6, 256))
    packing(PackForOrt, bits, block)(model)
    assert not packing(PackForOrt, bits, block)(model).modified


@every_scheme
@every_width
def test_values_agree_with_the_linear_layer_over_rounded_weights_within_rounding_of_activations(
    build: Callable, evaluate: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    w, x = normal(6, columns) + 0.3, normal(3, columns)
    reference = build(LINEAR.format(K=columns), w=rounded(w, bits, block))
    before = evaluate(reference, x=x[None])["z"][0]
    model = build(LINEAR.format(K=columns), w=w)
    packing(PackForOrt, bits, block)(model)
    error = np.abs(evaluate(model, x=x[None])["z"][0] - before)
    bound = half_steps(x, 8, block) @ np.abs(rounded(w, bits, block)).T + 1e-4
    assert (error <= bound).all()
    assert error.max() < np.abs(before).max() / 50  # the bound above grows with each column


@every_scheme
@every_width
def test_values_agree_with_the_linear_layer_within_both_roundings(
    build: Callable, evaluate: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    w, x = normal(6, columns), normal(3, columns)
    model = build(LINEAR.format(K=columns), w=w)
    before = evaluate(model, x=x[None])["z"][0]
    packing(PackForOrt, bits, block)(model)
    error = np.abs(evaluate(model, x=x[None])["z"][0] - before)
    from_weights = half_steps(w, bits, block)
    bound = np.abs(x) @ from_weights.T
    bound += half_steps(x, 8, block) @ (np.abs(w) + from_weights).T
    assert (error <= bound + 1e-4).all()


@every_scheme
@every_width
def test_values_agree_with_gathered_rows_that_are_rounded(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    bits: int,
    block: int,
    columns: int,
) -> None:
    w = normal(6, columns)
    model = build(GATHER.format(K=columns), w=w)
    packing(PackForOrt, bits, block)(model)
    assert_agree(evaluate(model, ids=IDS), {"rows": rounded(w, bits, block)[IDS]})
