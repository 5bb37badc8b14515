"""Do bytes multiply bytes wherever a browser multiplies, and is little lost by it?"""

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
from tramontane.graphs.quantization.packing.pack_for_web import PackForWeb
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.quantization.scheme import Scheme

from ..small_graphs import GATHER, IDS, LINEAR, ONE, TWO_READERS, every_width

N, BLOCK = 6, 32
TIED = """(int64[b,t] ids) => (float[b,t,6] y) <float[6,{K}] w> {{
    rows = Gather(w, ids)
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(rows, columns)
}}"""
# The gate is all ones, so that x is what is multiplied: what counts is the product before it.
DOWN = """(float[b,t,{K}] x) => (float[b,t,6] y) <float[6,{K}] w, float[1] gate> {{
    columns = Transpose<perm = [1, 0]>(w)
    gated = Mul(x, gate)
    y = MatMul(gated, columns)
}}"""


def packing() -> PackForWeb:
    schemes = MatrixSchemes(find_recipe("int8"), block=BLOCK)
    return PackForWeb(schemes)


def rounded(matrix: np.ndarray, block: int | None = None) -> np.ndarray:
    """What the codes of a matrix stand for, a scale to a row unless a block is given."""
    columns = matrix.shape[1]
    scheme = Scheme(bits=8, block=block or columns)
    return dequantize(quantize(matrix, scheme), scheme, columns=columns)


def steps(x: np.ndarray) -> np.ndarray:
    """The size of a step of each position, (..., 1)."""
    return np.abs(x).max(axis=-1, keepdims=True) / 127


@pytest.fixture
def down(build: Callable, normal: Callable) -> ir.Model:
    """The layer that ends the perceptron: it reads a product."""
    return build(DOWN.format(K=256), w=normal(N, 256), gate=ONE)


@every_width
def test_linear_layer_multiplies_bytes_by_bytes(
    build: Callable, op_types: Callable, normal: Callable, columns: int
) -> None:
    model = build(LINEAR.format(K=columns), w=normal(N, columns))
    assert packing()(model).modified
    types = op_types(model)
    assert types.count("MatMulIntegerToFloat") == types.count("Round") == 1
    assert types[-2:] == ["MatMulIntegerToFloat", "Mul"]
    assert not {"MatMul", "Transpose", "Split"} & set(types)
    kernel = model.graph.node(-2)
    assert kernel.domain == schema.MICROSOFT
    assert kernel.inputs[0].producer().attributes.get_int("to") == ir.DataType.UINT8
    found = {
        v.name: (str(v.dtype), tuple(v.shape.numpy()))
        for v in (kernel.inputs[1], kernel.inputs[3])
    }
    assert found == {"w.columns": ("UINT8", (columns, N)), "w.column_scales": ("FLOAT", (N,))}


def test_gather_unpacks_the_rows_it_gathers(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    model = build(GATHER.format(K=256), w=normal(N, 256))
    assert packing()(model).modified
    types = op_types(model)
    assert types.count("Gather") == 2
    assert types[-1] == "DequantizeLinear"
    assert "MatMulIntegerToFloat" not in types


def test_layers_that_read_one_input_round_it_once(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    model = build(TWO_READERS.format(K=256), w=normal(N, 256), v=normal(N, 256))
    packing()(model)
    types = op_types(model)
    assert types.count("MatMulIntegerToFloat") == 2
    assert types.count("Round") == types.count("ReduceMax") == 1


def test_input_of_the_last_projection_is_rounded_twice_and_multiplied_at_once(
    down: ir.Model, op_types: Callable
) -> None:
    assert packing()(down).modified
    types = op_types(down)
    assert types.count("Round") == 2
    for op_type in ("MatMulIntegerToFloat", "Concat", "Split"):
        assert types.count(op_type) == 1


def test_no_other_input_is_rounded_twice_whatever_its_weight_is_called(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    for text in (LINEAR, DOWN.replace("Mul(x, gate)", "Add(x, gate)")):
        numbers = {"w": normal(N, 256), **({"gate": ONE} if text is not LINEAR else {})}
        model = build(text.format(K=256), **numbers)
        model.graph.initializers["w"].name = "layers.0.mlp.down.weight"
        packing()(model)
        assert op_types(model).count("Round") == 1


@pytest.mark.parametrize("text", [LINEAR, GATHER], ids=["linear", "gather"])
def test_matrix_that_is_an_input_is_left_alone(build: Callable, text: str) -> None:
    given = text.format(K=256).replace(") =>", ", float[6,256] w) =>", 1)
    model = build(given.replace("<float[6,256] w>", ""))
    assert not packing()(model).modified


def test_matrix_that_is_not_transposed_is_left_alone(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    text = "(float[b,t,8] x) => (float[b,t,6] y) <float[8,6] w> { y = MatMul(x, w) }"
    model = build(text, w=normal(8, N))
    assert not packing()(model).modified
    assert op_types(model) == ["MatMul"]


@pytest.mark.parametrize("text", [LINEAR, TWO_READERS, GATHER, TIED])
def test_second_run_modifies_nothing(build: Callable, normal: Callable, text: str) -> None:
    numbers = {"w": normal(N, 256)}
    if text is TWO_READERS:
        numbers["v"] = normal(N, 256)
    model = build(text.format(K=256), **numbers)
    assert packing()(model).modified
    assert not packing()(model).modified


def test_second_run_over_the_last_projection_modifies_nothing(down: ir.Model) -> None:
    assert packing()(down).modified
    assert not packing()(down).modified


@every_width
def test_values_agree_with_the_linear_layer_within_both_roundings(
    build: Callable, evaluate: Callable, normal: Callable, columns: int
) -> None:
    w, x = normal(N, columns) + 0.3, normal(2, 3, columns)
    model = build(LINEAR.format(K=columns), w=w)
    before = evaluate(model, x=x)["y"]
    packing()(model)
    found = evaluate(model, x=x)["y"]
    from_weights = quantize(w, Scheme(bits=8, block=columns)).scales / 2  # (N, 1)
    half_step = steps(x) / 2  # (2, 3, 1)
    weighed = np.abs(rounded(w)).sum(axis=1)
    bound = np.abs(x).sum(axis=-1, keepdims=True) * from_weights.T + half_step * weighed
    error = np.abs(found - before)
    assert (error <= bound + 1e-4).all()
    assert error.max() < np.abs(before).max() / 20  # the bound above grows with each column


@every_width
def test_values_are_those_of_the_rounded_numbers(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable, columns: int
) -> None:
    w, x = normal(N, columns) + 0.3, normal(2, 3, columns)
    model = build(LINEAR.format(K=columns), w=w)
    reference = build(LINEAR.format(K=columns), w=rounded(w))
    packing()(model)
    in_steps = np.round(x / steps(x)) * steps(x)
    assert_agree(evaluate(model, x=x), evaluate(reference, x=in_steps.astype(np.float32)))


@pytest.mark.parametrize("tokens", [1, 3])
def test_values_of_the_last_projection_are_those_of_the_rounded_weights_almost(
    down: ir.Model, build: Callable, evaluate: Callable, normal: Callable, tokens: int
) -> None:
    w = weights.read(down.graph.initializers["w"])
    x = normal(2, tokens, 256)
    expected = evaluate(build(LINEAR.format(K=256), w=rounded(w)), x=x)["y"]
    packing()(down)
    left_over = steps(x) / (2 * 127) / 2
    bound = left_over * np.abs(rounded(w)).sum(axis=1)
    assert (np.abs(evaluate(down, x=x)["y"] - expected) <= bound + 1e-4).all()


def test_rounding_twice_gains_accuracy_on_rows_with_outliers(
    build: Callable, evaluate: Callable, normal: Callable
) -> None:
    w, x = normal(N, 256), normal(1, 8, 256)
    x[..., 7] = 500  # of which a step is larger than the rest of the row
    exact = evaluate(build(LINEAR.format(K=256), w=rounded(w)), x=x)["y"]
    errors = []
    for text, numbers in ((LINEAR, {}), (DOWN, {"gate": ONE})):
        model = build(text.format(K=256), w=w, **numbers)
        packing()(model)
        errors.append(np.abs(evaluate(model, x=x)["y"] - exact).mean())
    once, twice = errors
    assert once > 1  # what the others add up to is lost
    assert twice < once / 150  # its steps are 254 times as small


def test_position_of_zeros_gives_zeros(
    build: Callable, evaluate: Callable, down: ir.Model, normal: Callable
) -> None:
    x = np.zeros((1, 3, 256), np.float32)
    x[0, 1] = normal(256)
    for model in (down, build(LINEAR.format(K=256), w=normal(N, 256))):
        packing()(model)
        found = evaluate(model, x=x)["y"]
        assert np.isfinite(found).all()
        assert not found[0, [0, 2]].any()
        assert found[0, 1].any()


def test_positions_do_not_share_a_scale(
    build: Callable, evaluate: Callable, normal: Callable
) -> None:
    w, x = normal(N, 256), normal(1, 2, 256)
    model = build(LINEAR.format(K=256), w=w)
    packing()(model)
    alone = evaluate(model, x=x)["y"][0, 0]
    x[0, 1] *= 1000
    np.testing.assert_array_equal(evaluate(model, x=x)["y"][0, 0], alone)


@every_width
def test_values_agree_with_gathered_rows_that_are_rounded(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable, columns: int
) -> None:
    w = normal(N, columns)
    model = build(GATHER.format(K=columns), w=w)
    packing()(model)
    assert_agree(evaluate(model, ids=IDS), {"rows": rounded(w, BLOCK)[IDS]})


def test_values_of_a_matrix_with_both_readers_agree(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    w = normal(N, 256) + 0.3
    model = build(TIED.format(K=256), w=w)
    packing()(model)
    assert model.graph.initializers.keys() == {"w", "w.columns", "w.column_scales"}
    x = rounded(w)[IDS]
    x = np.round(x / steps(x)) * steps(x)
    assert_agree(evaluate(model, ids=IDS), {"y": x @ rounded(w).T})


def test_planted_scale_of_another_row_is_noticed(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    w, x = normal(N, 256), normal(1, 3, 256)
    model = build(LINEAR.format(K=256), w=w)
    packing()(model)
    expected = evaluate(model, x=x)
    scales = model.graph.initializers["w.column_scales"]
    scales.const_value = ir.tensor(np.roll(weights.read(scales), 1), name=scales.name)
    with pytest.raises(AssertionError, match="y"):
        assert_agree(evaluate(model, x=x), expected)
