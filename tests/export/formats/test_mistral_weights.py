"""Weights in Mistral's own layout: a file of torch.save, and float8 with scales of its names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.runtime.errors import CheckpointError, ConfigError

Write = Callable[..., Path]
WEIGHTS, LARGEST = "consolidated.safetensors", 448.0
FLOAT8 = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.parameters == expected.parameters
    for name in expected.parameters:
        np.testing.assert_array_equal(found.read(name), expected.read(name), err_msg=name)


def to_pth(folder: Path, name: str = "consolidated.00.pth") -> Path:
    torch.save(load_file(folder / WEIGHTS), folder / name)
    (folder / WEIGHTS).unlink()
    return folder


@pytest.mark.situation("`consolidated.00.pth` beside `params.json`", package="torch")
def test_pth_file_is_read_as_the_same_weights_in_safetensors(
    tiny_checkpoint: Write, as_mistral: Write
) -> None:
    published = tiny_checkpoint()
    folder = to_pth(as_mistral(published))
    with Checkpoint.open(folder) as found, Checkpoint.open(published) as expected:
        assert "consolidated.00.pth" in found.hashes()
        assert_equal(found, expected)


def test_several_pth_files_are_refused(tiny_checkpoint: Write, as_mistral: Write) -> None:
    folder = to_pth(as_mistral(tiny_checkpoint()))
    (folder / "consolidated.01.pth").write_bytes((folder / "consolidated.00.pth").read_bytes())
    with pytest.raises(
        CheckpointError, match=r"consolidated\.01\.pth: is one of several files .*Hugging Face's"
    ):
        Checkpoint.open(folder)


def to_float8(folder: Path, *, of_rows: bool = False, **quantization: Any) -> dict[str, Any]:
    """Store the matrices of layers as Mistral does; return the numbers that they stand for."""
    stored, expected = {}, {}
    for name, weight in load_file(folder / WEIGHTS).items():
        stored[name] = expected[name] = weight
        if re.search(r"\.w[qkvo123]\.weight$", name):
            scale = weight.float().abs().max() / LARGEST
            if of_rows:
                scale = weight.float().abs().amax(dim=1) / LARGEST
            each = scale.reshape(-1, 1)
            codes = (weight.float() / each).to(torch.float8_e4m3fn)
            start = name.removesuffix("weight")
            stored[name], expected[name] = codes, codes.float() * each
            stored[f"{start}qscale_weight"] = scale
            stored[f"{start}qscale_act"] = torch.tensor(0.5)
    save_file(stored, folder / WEIGHTS)
    params = json.loads((folder / "params.json").read_bytes())
    (folder / "params.json").write_text(json.dumps({**params, "quantization": quantization}))
    return expected


@pytest.mark.situation(
    "float8 weights in Mistral's own layout (`qscale_weight`)", package="safetensors"
)
@pytest.mark.parametrize("of_rows", [False, True])
def test_float8_is_dequantized_and_scales_of_activations_are_left_out(
    tiny_checkpoint: Write, as_mistral: Write, tmp_path: Path, of_rows: bool
) -> None:
    folder = as_mistral(tiny_checkpoint())
    expected = to_float8(folder, of_rows=of_rows, **FLOAT8)
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("params.json", "tokenizer.model"):
        (plain / name).write_bytes((folder / name).read_bytes())
    params = json.loads((plain / "params.json").read_bytes())
    (plain / "params.json").write_text(json.dumps({**params, "quantization": None}))
    save_file(expected, plain / WEIGHTS)
    with Checkpoint.open(folder) as found, Checkpoint.open(plain) as wanted:
        (note,) = found.notes
        assert "scales of activations, such as layers.0.attention.wk.qscale_act" in note
        assert_equal(found, wanted)


def test_float8_without_its_scale_is_refused(tiny_checkpoint: Write, as_mistral: Write) -> None:
    folder = as_mistral(tiny_checkpoint())
    to_float8(folder, **FLOAT8)
    tensors = load_file(folder / WEIGHTS)
    del tensors["layers.0.attention.wq.qscale_weight"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"wq\.weight is of type F8_E4M3 and has no scale"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (
            {"qformat_weight": "nvfp4"},
            "qformat_weight of quantization is 'nvfp4'; expected float8",
        ),
        ({**FLOAT8, "qscheme_act": "OTHER"}, "qscheme_act of quantization is 'OTHER'"),
        ({**FLOAT8, "kv_cache": "int8"}, "kv_cache of quantization is 'int8'; expected float8"),
        ("fp8", "quantization is 'fp8'; expected an object with qformat_weight"),
        ({}, r"quantization is \{\}; expected an object with qformat_weight"),
    ],
)
def test_other_quantization_is_refused(
    tiny_checkpoint: Write, as_mistral: Write, described: Any, message: str
) -> None:
    folder = as_mistral(tiny_checkpoint(), quantization=described)
    with pytest.raises(ConfigError, match=rf"params\.json: {message}"):
        Checkpoint.open(folder)
