"""Are divisors chosen that lessen what rounding costs, and none where they would add to it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tramontane.export.calibrate.calibrate import calibrate
from tramontane.export.calibrate.smoothing import Reader, choose_divisors, factors
from tramontane.export.calibrate.tokens import CalibrationTokens
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.graphs.quantization.activation_rounding import InBlocks
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.graphs.quantization.shared_scales import SharedScales, in_blocks

T, N, K, BLOCK, LOUD = 200, 48, 64, 32, 5
SCHEME = Scheme(bits=8, block=BLOCK)
ARE_NORMAL = {"inputs": np.random.default_rng(1).standard_normal((T, K), np.float32)}


def inputs(*, loud: float) -> np.ndarray:
    x = ARE_NORMAL["inputs"].copy()
    x[:, LOUD] *= loud
    return x


def weight() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((N, K), np.float32)


def chosen(x: np.ndarray, *readers: Reader) -> np.ndarray:
    return choose_divisors(lambda: iter(map(torch.from_numpy, np.split(x, 2))), readers)


def moved(x: np.ndarray, matrix: np.ndarray, divisors: np.ndarray) -> float:
    """How far both roundings move the outputs: the mean square."""
    codes = quantize(matrix * divisors, SCHEME)
    rounded = InBlocks(BLOCK)(x / divisors) @ dequantize(codes, SCHEME, columns=K).T
    return float(np.square(rounded - x @ matrix.T).mean())


def test_loud_channel_is_divided_by_a_power_of_two_and_outputs_move_less() -> None:
    x, matrix = inputs(loud=64), weight()
    found = chosen(x, Reader(weight=matrix, scales=in_blocks(SCHEME)))
    assert found[LOUD] >= 8
    assert set(np.log2(found) % 1) == {0}
    assert moved(x, matrix, found) < moved(x, matrix, np.ones(K, np.float32)) / 4


def test_channels_of_one_size_are_left_alone() -> None:
    found = chosen(inputs(loud=1), Reader(weight=weight(), scales=in_blocks(SCHEME)))
    assert found.tolist() == [1] * K


def test_weights_alone_count_where_activations_stay_in_float() -> None:
    x, matrix = inputs(loud=64), weight()
    found = chosen(x, Reader(weight=matrix, scales=in_blocks(SCHEME, rounds_activations=False)))
    rounded, plain = (
        dequantize(quantize(matrix * one, SCHEME), SCHEME, columns=K) / one - matrix
        for one in (found, np.ones(K, np.float32))
    )
    assert np.square(x @ rounded.T).mean() < np.square(x @ plain.T).mean()


def test_no_choice_rounds_worse_than_none() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sizes = np.exp(rng.standard_normal(K) * rng.uniform(0, 2)).astype(np.float32)
        x = rng.standard_normal((T, K), np.float32) * sizes
        matrix = rng.standard_normal((N, K), np.float32) * np.exp(rng.standard_normal(K) / 2)
        matrix = matrix.astype(np.float32)
        found = chosen(x, Reader(weight=matrix, scales=in_blocks(SCHEME)))
        assert moved(x, matrix, found) <= 1.05 * moved(x, matrix, np.ones(K, np.float32))


def test_readers_of_other_blocks_count_each_by_its_own() -> None:
    x, matrix = inputs(loud=64), weight()
    whole = SharedScales(8, K, K)
    for readers in ([in_blocks(SCHEME), whole], [whole, in_blocks(SCHEME)]):
        found = chosen(x, *(Reader(weight=matrix, scales=one) for one in readers))
        assert found[LOUD] >= 8


def test_channel_that_is_never_used_and_one_that_nobody_reads_are_left_alone() -> None:
    maxima, largest = np.array([0, 8, 8, 8], np.float32), np.array([1, 0, 1, 1], np.float32)
    assert factors(maxima, largest, 0.8).tolist() == [1, 1, 1, 1]
    assert factors(np.array([64, 1, 1], np.float32), np.ones(3, np.float32), 0.5)[0] == 8


@pytest.fixture(scope="module")
def loud_checkpoint(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One channel of each norm of layer 1, of the last norm and of its gated product is loud."""
    from safetensors.torch import load_file, save_file

    plain, folder = tiny_checkpoint(), tmp_path_factory.mktemp("loud")
    for name in ("config.json", "tokenizer.model"):
        (folder / name).write_bytes((plain / name).read_bytes())
    tensors = load_file(plain / "model.safetensors")
    for name in ("layers.1.input_layernorm", "layers.1.post_attention_layernorm", "norm"):
        tensors[f"model.{name}.weight"][LOUD] *= 64
    tensors["model.layers.1.mlp.up_proj.weight"][LOUD] *= 64
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_divisors_are_found_where_a_channel_is_loud_and_asked_for(loud_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(loud_checkpoint)
    tokens = CalibrationTokens(text=[np.arange(5, 60)], random=np.arange(60, 5, -1))
    matrices = [f"layers.1.attention.{one}.weight" for one in ("query", "key", "value")]
    matrices += [f"layers.1.mlp.{one}.weight" for one in ("gate", "up", "down")]
    asked = dict.fromkeys([*matrices, "head.weight"], SharedScales(8, 32, 32))
    found = calibrate(checkpoint.config, checkpoint, tokens, smoothing=asked).divisors
    assert sorted(found) == [
        "layers.1.attention_norm.weight",
        "layers.1.mlp.up.weight",
        "layers.1.mlp_norm.weight",
        "norm.weight",
    ]
    assert all(one[LOUD] >= 8 for one in found.values())
    del asked["layers.1.attention.key.weight"]  # reads the same norm
    fewer = calibrate(checkpoint.config, checkpoint, tokens, smoothing=asked).divisors
    assert sorted(set(found) - set(fewer)) == ["layers.1.attention_norm.weight"]
