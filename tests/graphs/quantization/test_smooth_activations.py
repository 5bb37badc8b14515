"""Do large channels become small without a number changing, and is rounding better for it?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization.activation_ranges import Calibration, LayerMaxima
from tramontane.graphs.quantization.matrix_schemes import MatrixSchemes
from tramontane.graphs.quantization.pack_dynamic_int8 import PackInBytes
from tramontane.graphs.quantization.recipes.known import find_recipe
from tramontane.graphs.quantization.recipes.recipe import DEFAULT_BLOCK
from tramontane.graphs.quantization.smooth_activations import SmoothActivations, factors
from tramontane.runtime.errors import GraphError

K, N, LOUD = 64, 24, 5
TWO_READERS = f"""(float[b,t,{K}] x) => (float[b,t,{N}] y)
<float[{K}] norm, float[{N},{K}] gate, float[{N},{K}] up> {{
    normed = RMSNormalization<axis = -1, epsilon = 0.00001>(x, norm)
    g = Transpose<perm = [1, 0]>(gate)
    u = Transpose<perm = [1, 0]>(up)
    first = MatMul(normed, g)
    second = MatMul(normed, u)
    y = Add(first, second)
}}"""
NAMES = {
    "norm": "layers.0.mlp_norm.weight",
    "gate": "layers.0.mlp.gate.weight",
    "up": "layers.0.mlp.up.weight",
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


def calibration(width: int = K, *, loud: float = 300.0) -> Calibration:
    """What would be found of ``make``'s norm: 3 everywhere, 300 in the loud channel."""
    size = np.full(width, 3, np.float32)
    size[LOUD] = loud
    layer = LayerMaxima(**dict.fromkeys(LayerMaxima.__dataclass_fields__, size))
    return Calibration(layers=(layer,))


def numbers(model: ir.Model, name: str) -> np.ndarray:
    return weights.read(model.graph.initializers[NAMES[name]])


def test_loud_channel_is_divided_where_it_is_made_and_multiplied_where_it_is_read(
    make: Callable,
) -> None:
    before, after = make(), make()
    assert SmoothActivations(calibration())(after).modified
    divisors = numbers(before, "norm") / numbers(after, "norm")
    assert divisors[LOUD] >= 64
    assert np.abs(np.log2(np.delete(divisors, LOUD))).max() <= 1
    assert set(np.log2(divisors) % 1) == {0}  # powers of two
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


def test_norm_outside_the_layers_stays(make: Callable) -> None:
    model = make()
    model.graph.initializers[NAMES["norm"]].name = "norm.weight"
    assert not SmoothActivations(calibration())(model).modified


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
        PackInBytes(schemes)(packed)
        errors.append(np.abs(evaluate(packed, x=x)["y"] - expected).mean())
    assert errors[1] < errors[0] / 5


def test_channel_that_is_never_used_and_one_that_nobody_reads_are_left_alone() -> None:
    maxima, largest = np.array([0, 8, 8, 8], np.float32), np.array([1, 0, 1, 1], np.float32)
    assert factors(maxima, largest, 0.8).tolist() == [1, 1, 1, 1]
    assert factors(np.array([64, 1, 1], np.float32), np.ones(3, np.float32), 0.5)[0] == 8


@pytest.mark.parametrize(("width", "layers"), [(K - 8, 1), (K, 0)])
def test_calibration_of_another_model_is_refused(make: Callable, width: int, layers: int) -> None:
    other = calibration(width)
    other = Calibration(layers=other.layers * layers)
    message = "layers.0.mlp_norm.weight: the calibration has .* expected 64; calibrate this check"
    with pytest.raises(GraphError, match=message):
        SmoothActivations(other)(make())
