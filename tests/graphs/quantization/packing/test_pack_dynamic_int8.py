"""Do layers multiply bytes with a sign, in parts where outliers are, and the head does not?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.operator import schema
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.matrix_schemes import MatrixSchemes
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.packing.pack_dynamic_int8 import PackDynamicInt8
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.quantization.scheme import Scheme

from ..small_graphs import DOWN, GATHER, ONE, TWO_READERS
from ..small_graphs import LINEAR as HEAD

N = 6
# Doubled, since a layer whose output is the graph's is the head.
LINEAR = """(float[b,t,{K}] x) => (float[b,t,6] y) <float[6,{K}] w> {{
    columns = Transpose<perm = [1, 0]>(w)
    product = MatMul(x, columns)
    y = Add(product, product)
}}"""


def packing() -> PackDynamicInt8:
    schemes = MatrixSchemes(find_recipe("int8-dynamic"), block=32)
    return PackDynamicInt8(schemes)


def rounded(rows: np.ndarray, width: int) -> np.ndarray:
    """What (n, K) becomes in 8 bits with a scale for so many numbers of a row."""
    scheme = Scheme(bits=8, block=width)
    return dequantize(quantize(rows, scheme), scheme, columns=rows.shape[1])


@pytest.mark.parametrize("columns", [256, 172, 12])
def test_linear_layer_multiplies_bytes_by_bytes_with_a_sign(
    build: Callable, op_types: Callable, normal: Callable, columns: int
) -> None:
    model = build(LINEAR.format(K=columns), w=normal(N, columns))
    assert packing()(model).modified
    types = op_types(model)
    assert types.count("MatMulIntegerToFloat") == types.count("Round") == 1
    assert types[-3:] == ["MatMulIntegerToFloat", "Mul", "Add"]
    assert not {"MatMul", "Transpose", "Split", "Sum"} & set(types)
    kernel = model.graph.node(-3)
    assert kernel.domain == schema.MICROSOFT
    codes, scales = kernel.inputs[1], kernel.inputs[3]
    assert (codes.dtype, tuple(codes.shape.numpy())) == (ir.DataType.INT8, (columns, N))
    assert tuple(scales.shape.numpy()) == (N,)
    assert weights.packing(codes) == (8, columns, (N, columns))


@pytest.mark.parametrize(("columns", "parts"), [(256, 4), (86, 2)])
def test_layer_behind_the_gated_product_is_cut_into_parts(
    build: Callable, op_types: Callable, normal: Callable, columns: int, parts: int
) -> None:
    model = build(DOWN.format(K=columns), w=normal(N, columns), gate=ONE)
    assert packing()(model).modified
    types = op_types(model)
    assert types.count("MatMulIntegerToFloat") == parts
    assert types.count("Round") == types.count("ReduceMax") == types.count("Sum") == 1


def test_layer_behind_the_gated_product_stays_whole_where_it_cannot_be_cut(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    model = build(DOWN.format(K=43), w=normal(N, 43), gate=ONE)
    packing()(model)
    assert op_types(model).count("MatMulIntegerToFloat") == 1


def test_head_and_embedding_are_packed_as_in_int8(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    for text, op_type in ((HEAD, "MatMulNBits"), (GATHER, "GatherBlockQuantized")):
        model = build(text.format(K=256), w=normal(N, 256))
        assert packing()(model).modified
        assert op_types(model) == [op_type]


def test_layers_that_read_one_input_round_it_once(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    model = build(TWO_READERS.format(K=256), w=normal(N, 256), v=normal(N, 256))
    packing()(model)
    types = op_types(model)
    assert types.count("MatMulIntegerToFloat") == 2
    assert types.count("Round") == types.count("ReduceMax") == 1


def test_second_run_finds_nothing(build: Callable, normal: Callable) -> None:
    model = build(TWO_READERS.format(K=256), w=normal(N, 256), v=normal(N, 256))
    assert packing()(model).modified
    assert not packing()(model).modified


def test_vector_and_computed_matrix_stay(build: Callable, op_types: Callable) -> None:
    text = """(float[b,t,8] x, float[8,6] m) => (float[b,t,6] y) <float[8] bias> {
        biased = Add(x, bias)
        product = MatMul(biased, m)
        y = Add(product, product)
    }"""
    model = build(text, bias=np.ones(8, np.float32))
    assert not packing()(model).modified
    assert op_types(model) == ["Add", "MatMul", "Add"]


@pytest.mark.parametrize(
    ("text", "columns", "width"),
    [(LINEAR, 256, 256), (LINEAR, 172, 172), (DOWN, 256, 64), (DOWN, 172, 43), (DOWN, 86, 43)],
)
def test_values_are_those_of_rounded_weights_and_positions(
    build: Callable,
    normal: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    text: str,
    columns: int,
    width: int,
) -> None:
    w, x = normal(N, columns), normal(2, 5, columns)
    x[0, 3] *= 1000  # one loud position takes nothing from the others
    x[1, 2] = 0
    held = {"w": w} | ({"gate": ONE} if text is DOWN else {})
    model = build(text.format(K=columns), **held)
    packing()(model)
    rows = rounded(x.reshape(10, columns), width).reshape(x.shape)
    expected = 2 * rows @ rounded(w, width).T
    loud = (
        np.array([1, 1, 1, 1000, 1])[None, :, None] * np.array([1, 0])[:, None, None]
        + (np.array([0, 1])[:, None, None])
    )
    found = evaluate(model, x=x)["y"]
    assert (found[1, 2] == 0).all()
    assert_agree({"y": found / loud / 10}, {"y": expected / loud / 10})


def test_chunks_of_any_length_agree_to_the_bit(
    build: Callable, normal: Callable, evaluate: Callable
) -> None:
    model, x = build(DOWN.format(K=256), w=normal(N, 256), gate=ONE), normal(1, 9, 256)
    packing()(model)
    whole = evaluate(model, x=x)["y"]
    pieces = [evaluate(model, x=x[:, part])["y"] for part in (slice(0, 4), slice(4, 9))]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


def test_an_outlier_of_the_product_costs_its_own_part_alone(
    build: Callable, normal: Callable, evaluate: Callable
) -> None:
    w, x = normal(N, 256), normal(1, 50, 256)
    x[..., 7] = 500
    w[:, 7] = 0
    errors = {}
    for text in (LINEAR, DOWN):
        model = build(text.format(K=256), w=w, **({"gate": ONE} if text is DOWN else {}))
        packing()(model)
        errors[text] = np.abs(evaluate(model, x=x)["y"] - 2 * x @ w.T).mean()
    assert errors[DOWN] < 0.7 * errors[LINEAR]
