"""Random weights follow from their names and the seed, and are scaled like trained ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tramontane.export.formats.tensor_names import parameters
from tramontane.export.known_models import GEOMETRIES
from tramontane.export.synthesize import random_weights
from tramontane.export.synthesize.random_weights import RandomTensor, random_tensor

CONFIG = GEOMETRIES["stdlib-5m"]
SHAPES = parameters(CONFIG)


def tensor(name: str, seed: int = 0) -> RandomTensor:
    return random_tensor(name, config=CONFIG, seed=seed)


def whole(name: str, seed: int = 0) -> random_weights.Floats:
    described = tensor(name, seed)
    return np.concatenate([described.compute(i) for i in range(described.num_slices)])


def test_every_parameter_has_its_shape_and_is_like_no_other() -> None:
    arrays = {name: whole(name) for name in SHAPES}
    assert {name: array.shape for name, array in arrays.items()} == SHAPES
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert len({array.tobytes() for array in arrays.values()}) == len(SHAPES)


def test_numbers_follow_from_seed_and_name_alone() -> None:
    name = "layers.3.mlp.up.weight"
    np.testing.assert_array_equal(whole(name), whole(name))
    assert not np.array_equal(whole(name), whole(name, seed=1))


def test_slices_are_whole_heads_that_differ_and_may_come_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random_weights, "_SLICE_ELEMENTS", 1 << 14)
    described = tensor("layers.0.attention.query.weight")
    assert described.rows_per_slice == 2 * CONFIG.head_dim
    forward = [described.compute(i) for i in range(described.num_slices)]
    backward = [described.compute(i) for i in reversed(range(described.num_slices))][::-1]
    np.testing.assert_array_equal(forward, backward)
    assert len({part.tobytes() for part in forward}) == described.num_slices == 4


def test_the_last_slice_holds_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_weights, "_SLICE_ELEMENTS", 96 * 256)
    assert tensor("head.weight").compute(21).shape == (2048 % 96, 256)
    assert whole("head.weight").shape == (2048, 256)


def test_projections_hand_on_what_they_are_meant_to() -> None:
    normal = np.random.default_rng(0).standard_normal((512, 256), dtype=np.float32)
    hidden = np.argmax(np.abs(whole("embedding.weight")).mean(0))  # one of 256 is an outlier
    normal[:, hidden] *= 6
    normed = normal / np.sqrt((normal**2).mean(1, keepdims=True)) * whole("norm.weight")
    for name, std in (("layers.0.attention.query", 1.2), ("layers.5.mlp.up", 1), ("head", 2.5)):
        assert (normed @ whole(f"{name}.weight").T).std() == pytest.approx(std, rel=0.25)


def test_a_layer_adds_less_where_there_are_more_layers() -> None:
    few, many = (
        random_tensor(
            "layers.0.mlp.down.weight",
            config=dataclasses.replace(CONFIG, num_hidden_layers=layers),
            seed=0,
        )
        for layers in (6, 24)
    )
    np.testing.assert_allclose(many.column_scale * 2, few.column_scale, rtol=1e-6)


def test_the_same_hidden_channels_are_outliers_wherever_they_are_written_and_read() -> None:
    loudest = {
        int(np.argmax(np.sqrt((whole(name) ** 2).mean(axis))))
        for name, axis in (
            ("embedding.weight", 0),
            ("layers.0.attention.output.weight", 1),
            ("layers.5.mlp.down.weight", 1),
        )
    } | {int(np.argmax(whole(name))) for name in SHAPES if name.endswith("norm.weight")}
    assert len(loudest) == 1


def test_a_large_model_s_layers_have_columns_eight_times_as_large() -> None:
    config = GEOMETRIES["mistral-7b-v0.1"]
    for kind, large in (("attention.key", 2), ("attention.output", 2), ("mlp.down", 7)):
        name = f"layers.1.{kind}.weight"
        columns = random_tensor(name, config=config, seed=0).column_scale
        assert columns.max() / columns.min() == pytest.approx(8), kind
        assert (columns > 2 * columns.min()).sum() == large, kind


def test_a_large_model_has_four_outlier_channels_in_4096() -> None:
    config = GEOMETRIES["mistral-7b-v0.1"]
    norm = random_tensor("norm.weight", config=config, seed=0).compute(0)
    assert (norm > 1.6).sum() == 4
    assert 0 < norm.min() < 1 < np.median(norm) + 0.1
