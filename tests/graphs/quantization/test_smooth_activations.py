"""Do large channels become small without a number changing, and is rounding better for it?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization.activation_ranges import Calibration
from tramontane.graphs.quantization.matrix_schemes import MatrixSchemes
from tramontane.graphs.quantization.packing.pack_dynamic_int8 import PackDynamicInt8
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.quantization.recipes.recipe import DEFAULT_BLOCK
from tramontane.graphs.quantization.smooth_activations import SmoothActivations
from tramontane.runtime.errors import GraphError

K, N, LOUD = 64, 24, 5
GATED = f"""(float[b,t,{K}] x, float[b,t,{N}] gated) => (float[b,t,{K}] y)
<float[{N},{K}] up, float[{K},{N}] down> {{
    u = Transpose<perm = [1, 0]>(up)
    d = Transpose<perm = [1, 0]>(down)
    other = MatMul(x, u)
    product = Mul(gated, other)
    y = MatMul(product, d)
}}"""
TWO_READERS = f"""(float[b,t,{K}] x) => (float[b,t,{N}] y)
<float[{K}] norm, float[{N},{K}] gate, float[{N},{K}] up> {{
    normed = RMSNormalization<axis = -1, epsilon = 0.00001>(x, norm)
    g = Transpose<perm = [1, 0]>(gate)
    u = Transpose<perm = [1, 0]>(up)
    first = MatMul(normed, g)
    second = MatMul(normed, u)
    y = Add(first, second)
}}"""
TIED = f"""(int64[t] ids, float[t,{K}] x) => (float[t,{K}] rows, float[t,{N}] y)
<float[{K}] norm, float[{N},{K}] gate> {{
    rows = Gather(gate, ids)
    normed = RMSNormalization<axis = -1, epsilon = 0.00001>(x, norm)
    g = Transpose<perm = [1, 0]>(gate)
    y = MatMul(normed, g)
}}"""
NAMES = {
    "norm": "layers.0.mlp_norm.weight",
    "gate": "layers.0.mlp.gate.weight",
    "up": "layers.0.mlp.up.weight",
    "down": "layers.0.mlp.down.weight",
}


def named(model: ir.Model) -> ir.Model:
    """Give weights the names that parameters have, which text cannot."""
    for value in list(model.graph.initializers.values()):
        model.graph.initializers.pop(str(value.name))
        value.name = NAMES[str(value.name)]
        model.graph.register_initializer(value)
    return model


@pytest.fixture
def make(build: Callable, normal: Callable) -> Callable[..., ir.Model]:
    """A norm with one loud channel, which the weights that read it make up for; made anew."""
    norm, gate, up = np.ones(K, np.float32), normal(N, K), normal(N, K)
    norm[LOUD] *= 100
    gate[:, LOUD] /= 100
    up[:, LOUD] /= 100

    def graph(text: str = TWO_READERS) -> ir.Model:
        held = {"norm": norm, "gate": gate, "up": up}
        return named(build(text, **{name: held[name] for name in held if f"{name})" in text}))

    return graph


def calibration(width: int = K, *, of: str = "norm") -> Calibration:
    """What would be chosen for ``make``'s norm, or for another initializer."""
    divisors = np.ones(width, np.float32)
    divisors[LOUD] = 64
    return Calibration(layers=(), divisors={NAMES[of]: divisors})


def numbers(model: ir.Model, name: str) -> np.ndarray:
    return weights.read(model.graph.initializers[NAMES[name]])


def test_loud_channel_is_divided_where_it_is_made_and_multiplied_where_it_is_read(
    make: Callable,
) -> None:
    before, after = make(), make()
    assert SmoothActivations(calibration())(after).modified
    divisors = numbers(before, "norm") / numbers(after, "norm")
    assert divisors.tolist() == [64.0 if k == LOUD else 1.0 for k in range(K)]
    for name in ("gate", "up"):
        np.testing.assert_array_equal(numbers(after, name), numbers(before, name) * divisors)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("u = Transpose<perm = [1, 0]>(up)", "u = Transpose<perm = [1, 0]>(gate)"),
        ("y = Add(first, second)", "z = Add(first, second)\n    y = Concat<axis = 2>(z, normed)"),
        ("= RMSNormalization<axis = -1, epsilon = 0.00001>", "= Mul"),
    ],
    ids=["a weight has two readers", "so has the norm", "no norm"],
)
def test_norm_that_others_read_too_stays(make: Callable, part: str, other: str) -> None:
    assert part in TWO_READERS
    assert not SmoothActivations(calibration())(make(TWO_READERS.replace(part, other))).modified


def test_rows_of_smoothed_matrices_are_those_of_the_whole(
    make: Callable, make_gated: Callable
) -> None:
    for model, of in ((make(), "norm"), (make_gated(), "up")):
        for value in model.graph.initializers.values():
            array = weights.read(value)
            lazy = weights.weight(
                str(value.name),
                lambda array=array: array,
                shape=array.shape,
                compute_rows=lambda start, stop, array=array: array[start:stop],
            )
            value.const_value = lazy.const_value
        width = N if of == "up" else K
        assert SmoothActivations(calibration(width, of=of))(model).modified
        for value in model.graph.initializers.values():
            rows, whole = weights.rows_of(value.const_value), weights.read(value)
            assert rows is not None
            np.testing.assert_array_equal(rows(1, 3), whole[1:3])


def test_norm_without_divisors_stays(make: Callable) -> None:
    model = make()
    model.graph.initializers[NAMES["norm"]].name = "norm.weight"
    assert not SmoothActivations(calibration())(model).modified


@pytest.fixture
def make_gated(build: Callable, normal: Callable) -> Callable[..., ir.Model]:
    """The end of a perceptron; made anew."""
    up, down = normal(N, K), normal(K, N)
    return lambda text=GATED: named(build(text, up=up, down=down))


def test_rows_of_up_are_divided_and_columns_of_down_multiplied(
    make_gated: Callable, normal: Callable, evaluate: Callable, assert_agree: Callable
) -> None:
    before, after = make_gated(), make_gated()
    feeds = {"x": normal(2, 5, K), "gated": normal(2, 5, N)}
    expected = evaluate(before, **feeds)
    smooth = SmoothActivations(calibration(N, of="up"))
    assert smooth(after).modified
    divisors = calibration(N, of="up").divisors[NAMES["up"]]
    np.testing.assert_array_equal(
        numbers(after, "up"), numbers(before, "up") / divisors[:, np.newaxis]
    )
    np.testing.assert_array_equal(numbers(after, "down"), numbers(before, "down") * divisors)
    assert_agree(evaluate(after, **feeds), expected)
    assert not smooth(after).modified


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("y = MatMul(product, d)", "z = MatMul(product, d)\n    y = MatMul(other, d)"),
        ("product = Mul(gated, other)", "product = Add(gated, other)"),
    ],
    ids=["the factor has two readers", "it is no factor"],
)
def test_rows_that_others_read_too_stay(make_gated: Callable, part: str, other: str) -> None:
    assert part in GATED
    model = make_gated(GATED.replace(part, other))
    assert not SmoothActivations(calibration(N, of="up"))(model).modified


def test_second_run_finds_nothing(make: Callable) -> None:
    model = make()
    assert SmoothActivations(calibration())(model).modified
    once = numbers(model, "norm")
    assert not SmoothActivations(calibration())(model).modified
    np.testing.assert_array_equal(numbers(model, "norm"), once)


def test_not_a_bit_of_a_product_changes(make: Callable, normal: Callable) -> None:
    model = make()
    norm, gate = numbers(model, "norm"), numbers(model, "gate")
    SmoothActivations(calibration())(model)
    x = normal(3, K)
    np.testing.assert_array_equal(
        (x * numbers(model, "norm")) * numbers(model, "gate")[0], (x * norm) * gate[0]
    )


def test_values_agree_with_the_graph_before(
    make: Callable, normal: Callable, evaluate: Callable, assert_agree: Callable
) -> None:
    model, x = make(), normal(2, 5, K)
    expected = evaluate(model, x=x)
    SmoothActivations(calibration())(model)
    assert_agree(evaluate(model, x=x), expected)


def test_bytes_lose_less_of_a_smoothed_graph(
    make: Callable, normal: Callable, evaluate: Callable
) -> None:
    schemes = MatrixSchemes(find_recipe("int8-dynamic"), block=DEFAULT_BLOCK)
    model, x = make(), normal(2, 50, K)
    expected = evaluate(model, x=x)["y"]
    errors = []
    for packed in (make(), make()):
        if errors:
            SmoothActivations(calibration())(packed)
        PackDynamicInt8(schemes)(packed)
        errors.append(np.abs(evaluate(packed, x=x)["y"] - expected).mean())
    assert errors[1] < errors[0] / 5


def test_rows_that_are_gathered_of_a_smoothed_matrix_keep_their_size(
    make: Callable, normal: Callable, evaluate: Callable
) -> None:
    model, feeds = make(TIED), {"ids": np.array([3, 0, 3]), "x": normal(3, K)}
    before, expected = numbers(model, "gate"), evaluate(model, **feeds)
    assert SmoothActivations(calibration())(model).modified
    assert (numbers(model, "gate")[:, LOUD] == 64 * before[:, LOUD]).all()
    found = evaluate(model, **feeds)
    np.testing.assert_array_equal(found["rows"], expected["rows"])
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-5, atol=1e-5)
    assert not SmoothActivations(calibration())(model).modified


def test_calibration_of_another_model_is_refused(make: Callable) -> None:
    message = "layers.0.mlp_norm.weight: the calibration has 56 .* expected 64; calibrate this"
    with pytest.raises(GraphError, match=message):
        SmoothActivations(calibration(K - 8))(make())
