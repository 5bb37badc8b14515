"""Are keys and values held in 8 bits, by scales that were calibrated, and read as such?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization.activation_ranges import Calibration, LayerMaxima
from tramontane.graphs.quantization.quantize_cache import (
    QuantizeCache,
    scales_of,
)
from tramontane.runtime.errors import GraphError

C = 8
ATTENTION = """(float[b,t,128] x, float[b,2,8,16] k0,
float[b,2,8,16] v0, int32[b] last, int32 total,
float[64,8] cos, float[64,8] sin)
=> (float[b,t,64] y, float[b,2,8,16] k1, float[b,2,8,16] v1) {
    y, k1, v1 = com.microsoft.GroupQueryAttention<num_heads = 4,
        kv_num_heads = 2, do_rotary = 1, local_window_size = 5, sliding_window_cache = 1>
        (x, , , k0, v0, last, total, cos, sin)
}"""


PAST, PRESENT = "past_key_values", "present"


@pytest.fixture
def attention(build: Callable) -> Callable[..., ir.Model]:
    """One layer's attention, its cache named as the contract names it."""

    def make(text: str = ATTENTION, layer: int = 0) -> ir.Model:
        model: ir.Model = build(text)
        values = (*model.graph.inputs[1:3], *model.graph.outputs[1:])
        for value, start in zip(values, (PAST, PAST, PRESENT, PRESENT), strict=True):
            value.name = f"{start}.{layer}.{'key' if str(value.name)[0] == 'k' else 'value'}"
        return model

    return make


@pytest.fixture
def calibration() -> Calibration:
    """One layer whose keys and values reach 4 at most."""
    rows = np.full((2, 16), 4.0, np.float32)
    layer = LayerMaxima(
        keys=rows,
        values=rows / 2,
    )
    return Calibration(layers=(layer,))


@pytest.fixture
def tokens(normal: Callable[..., np.ndarray]) -> np.ndarray:
    """Queries, keys and values of 20 tokens: the cache is evicted four times."""
    return np.clip(normal(1, 20, 128), -2, 2)


def feed(evaluate: Callable, model: ir.Model, x: np.ndarray, cuts: list[int]) -> np.ndarray:
    """The outputs of all tokens, fed in pieces."""
    dtype = model.graph.inputs[1].dtype
    assert dtype is not None
    angles = np.arange(64, dtype=np.float32)[:, None] * 0.5 ** np.arange(8, dtype=np.float32)
    pasts = [f"{PAST}.0.{kind}" for kind in ("key", "value")]
    cache = dict.fromkeys(pasts, np.zeros((1, 2, C, 16), dtype.numpy()))
    made, total = [], 0
    for size in cuts:
        total += size
        found = evaluate(
            model,
            x=x[:, total - size : total],
            last=np.array([total - 1], np.int32),
            total=np.array(total, np.int32),
            cos=np.cos(angles),
            sin=np.sin(angles),
            **cache,
        )
        made.append(found["y"])
        cache = {past: found[past.replace(PAST, PRESENT)] for past in pasts}
    return np.concatenate(made, axis=1)


def test_cache_is_int8_and_each_channel_has_its_scale(
    attention: Callable, calibration: Calibration
) -> None:
    model: ir.Model = attention()
    assert QuantizeCache(calibration)(model).modified
    node = model.graph.node(-1)
    for cache in (*model.graph.inputs[1:3], *model.graph.outputs[1:]):
        assert cache.dtype == ir.DataType.INT8
    for place, maxima in ((12, calibration.layers[0].keys), (13, calibration.layers[0].values)):
        scales = node.inputs[place]
        assert scales is not None
        np.testing.assert_array_equal(weights.read(scales), scales_of(maxima))
    assert node.attributes.get_string("k_quant_type") == "PER_CHANNEL"
    assert node.attributes.get_int("kv_cache_bit_width") == 8


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("com.microsoft.Group", "tramontane.Group"),
        ("float[b,2,8,16]", "int8[b,2,8,16]"),
    ],
    ids=["another operator", "in 8 bits already"],
)
def test_other_attention_is_left_alone(
    attention: Callable, calibration: Calibration, part: str, other: str
) -> None:
    model = attention(ATTENTION.replace(part, other))
    before = str(model)
    assert not QuantizeCache(calibration)(model).modified
    assert str(model) == before


def test_second_run_modifies_nothing(attention: Callable, calibration: Calibration) -> None:
    model = attention()
    QuantizeCache(calibration)(model)
    assert not QuantizeCache(calibration)(model).modified


@pytest.mark.parametrize("cuts", [[20], [1] * 20, [7, 2, 11]], ids=["whole", "stepped", "cut"])
def test_values_agree_with_those_of_keys_and_values_rounded_before(
    attention: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    calibration: Calibration,
    tokens: np.ndarray,
    cuts: list[int],
) -> None:
    maxima = calibration.layers[0]
    scales = scales_of(maxima.values).reshape(-1)
    on_grid = tokens.copy()  # keys are turned by rope: theirs are rounded within the kernel alone
    on_grid[..., 96:] = np.rint(tokens[..., 96:] / scales) * scales
    before = feed(evaluate, attention(), on_grid, cuts)
    model = attention()
    QuantizeCache(calibration)(model)
    step = float(scales_of(maxima.keys).max())
    found = feed(evaluate, model, tokens, cuts)
    assert_agree(
        {"y": feed(evaluate, model, on_grid, [20])}, {"y": found}
    )  # rounding twice is rounding once, and it matters not how tokens are fed
    # Half a step of each of 16 numbers of a key, times a query of 2 at most, over sqrt(16).
    assert np.abs(found - before).max() < 16 * 2 * (step / 2) / 4 * np.abs(on_grid[..., 96:]).max()
    assert np.abs(found - before).max() > 0


def test_channel_that_is_always_zero_has_a_scale_above_zero() -> None:
    assert (scales_of(np.zeros((2, 16), np.float32)) > 0).all()


def test_layer_that_was_not_calibrated_is_refused(
    attention: Callable, calibration: Calibration
) -> None:
    model = attention(layer=1)
    message = r"past_key_values\.1\.key: no layer of that name was calibrated, expected one of 1"
    with pytest.raises(GraphError, match=message):
        QuantizeCache(calibration).call(model)
