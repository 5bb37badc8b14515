"""float8 weights are dequantized to the numbers that transformers and the formula give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tramontane.export.formats import checkpoint as checkpoint_module
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.tensor_names import HUGGING_FACE
from tramontane.export.model.load import load_reference
from tramontane.runtime.errors import CheckpointError
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

Write = Callable[..., Path]
Scale = Callable[[torch.Tensor], torch.Tensor]
LARGEST = 448.0  # of float8_e4m3fn
WIDE = {"hidden_size": 160, "intermediate_size": 288}  # blocks of 128 end short


def of_tensor(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs().max() / LARGEST


def of_rows(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs().amax(dim=1, keepdim=True) / LARGEST


def of_blocks(size: int, columns: int | None = None) -> Scale:
    def scale(weight: torch.Tensor) -> torch.Tensor:
        rows = [part.split(columns or size, dim=1) for part in weight.split(size)]
        return torch.tensor([[block.abs().max() / LARGEST for block in row] for row in rows])

    return scale


def as_power(scale: torch.Tensor) -> torch.Tensor:
    """The next power of two, so that codes stay in their range."""
    return torch.exp2(torch.ceil(torch.log2(scale)))


def spread(
    scale: torch.Tensor, weight: torch.Tensor, size: int, columns: int | None
) -> torch.Tensor:
    """The scale of each number of a weight."""
    if scale.numel() in (1, len(weight)):
        return scale.reshape(-1, 1).expand(weight.shape)
    whole = scale.repeat_interleave(size, 0).repeat_interleave(columns or size, 1)
    return whole[: weight.shape[0], : weight.shape[1]]


def quantize(
    folder: Path,
    scale: Scale,
    *,
    ending: str,
    size: int = 128,
    columns: int | None = None,
    dtype: torch.dtype = torch.float8_e4m3fn,
    description: dict[str, Any] | None = None,
    beside: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Store the layers' matrices as float8; return the numbers that all tensors stand for."""
    path, stored, expected = folder / "model.safetensors", {}, {}
    for name, weight in load_file(path).items():
        stored[name] = expected[name] = weight
        if "_proj" in name:
            scales = scale(weight)
            each = spread(scales.float(), weight, size, columns)
            codes = (weight / each).to(dtype)
            stored[name] = codes
            stored[name.removesuffix("weight") + ending] = scales
            expected[name] = codes.float() * each.float()
    save_file({**stored, **(beside or {})}, path, metadata={"format": "pt"})
    if description is not None:
        config = json.loads((folder / "config.json").read_bytes())
        config["quantization_config"] = description
        (folder / "config.json").write_text(json.dumps(config))
    return expected


def assert_read(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    with Checkpoint.open(folder) as checkpoint:
        for parameter in checkpoint.parameters:
            tensor = expected[HUGGING_FACE.published(parameter)]
            np.testing.assert_array_equal(checkpoint.read(parameter), tensor, err_msg=parameter)


FINE: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def compressed(**weights: Any) -> dict[str, Any]:
    """As compressed-tensors describes weights."""
    group = {"weights": {"num_bits": 8, "type": "float", **weights}}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


COMPRESSED = compressed(strategy="channel")
KINDS: dict[str, tuple[Scale, dict[str, Any]]] = {
    "blocks": (of_blocks(128), {"ending": "weight_scale_inv", "description": FINE}),
    "blocks of 32": (
        of_blocks(32),
        {
            "ending": "weight_scale_inv",
            "size": 32,
            "description": {**FINE, "weight_block_size": [32, 32]},
        },
    ),
    "one scale": (
        of_tensor,
        {"ending": "weight_scale_inv", "description": {**FINE, "weight_block_size": None}},
    ),
    "one scale in bfloat16": (
        lambda weight: of_tensor(weight).bfloat16().reshape(1),
        {"ending": "weight_scale", "description": COMPRESSED},
    ),
    "rows": (of_rows, {"ending": "weight_scale", "description": {"quant_method": "fbgemm_fp8"}}),
    "channels": (of_rows, {"ending": "weight_scale", "description": COMPRESSED}),
    "wide range": (
        of_rows,
        {"ending": "weight_scale", "description": COMPRESSED, "dtype": torch.float8_e5m2},
    ),
    "blocks that are not square": (
        of_blocks(32, 64),
        {
            "ending": "weight_scale",
            "size": 32,
            "columns": 64,
            "description": compressed(block_structure=[32, 64]),
        },
    ),
    "groups of a row": (
        of_blocks(1, 32),
        {
            "ending": "weight_scale",
            "size": 1,
            "columns": 32,
            "description": compressed(group_size=32),
        },
    ),
    "no description": (of_rows, {"ending": "weight_scale"}),
    "powers of two": (
        lambda weight: as_power(of_blocks(128)(weight)).to(torch.float8_e8m0fnu),
        {"ending": "weight_scale_inv", "description": FINE},
    ),
    "powers of two for groups of a row": (
        lambda weight: as_power(of_blocks(1, 32)(weight)).to(torch.float8_e8m0fnu),
        {
            "ending": "weight_scale_inv",
            "size": 1,
            "columns": 32,
            "description": {"quant_method": "mxfp8"},
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scales_of_every_kind_give_the_numbers_that_the_codes_stand_for(
    tiny_checkpoint: Write, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "_SLICE_ELEMENTS", 1000)  # no multiple of a block
    folder = tiny_checkpoint(**WIDE)
    scale, options = KINDS[kind]
    assert_read(folder, quantize(folder, scale, **options))


EXPONENTS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.uint8])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_scales_stored_as_exponents_are_those_of_torch_and_of_transformers(
    tiny_checkpoint: Write, dtype: torch.dtype, name: str
) -> None:
    """All exponents; of 128 columns, each group of 32 has one."""
    folder = tiny_checkpoint()
    path = folder / "model.safetensors"
    stored = load_file(path)
    down = next(own for own in stored if own.endswith("layers.0.mlp.down_proj.weight"))
    exponents = EXPONENTS.reshape(64, 4).clone()
    codes = torch.full((64, 128), 1.125).to(torch.float8_e4m3fn)
    stored |= {down: codes, f"{down}_scale_inv": exponents.view(torch.float8_e8m0fnu)}
    as_stored = stored | {f"{down}_scale_inv": exponents.view(dtype)}
    path.unlink()
    if name.endswith("bin"):
        torch.save(as_stored, folder / name)
    else:
        save_file(as_stored, folder / name, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": "mxfp8", "weight_block_size": [1, 32]}
    (folder / "config.json").write_text(json.dumps(config))
    scales = exponents.view(torch.float8_e8m0fnu).float().repeat_interleave(32, 1)
    expected = codes.float() * scales
    theirs = Fp8Dequantize(None)._dequantize_one(codes, exponents.view(dtype), torch.float32)
    torch.testing.assert_close(
        theirs[:63], expected[:63], rtol=0, atol=0
    )  # of the last row, transformers takes the byte 255 for a number
    with Checkpoint.open(folder) as checkpoint:
        source = checkpoint.sources["layers.0.mlp.down.weight"]
        found = np.concatenate(list(source.slices(7)))
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found[63, 96:]).all()


def test_blocks_give_what_transformers_dequantizes(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    description = {**FINE, "weight_block_size": [32, 32]}
    quantize(folder, of_blocks(32), ending="weight_scale_inv", size=32, description=description)
    own = load_file(folder / "model.safetensors")
    theirs = Fp8Dequantize(None)
    expected = {
        name: theirs._dequantize_one(tensor, own[f"{name}_scale_inv"], torch.float32)
        if tensor.dtype == torch.float8_e4m3fn
        else tensor
        for name, tensor in own.items()
    }
    assert_read(folder, expected)


@pytest.mark.situation(
    "float8 weights with scales for the tensor, its rows or its blocks", package="transformers"
)
@torch.no_grad()
def test_logits_are_those_of_transformers(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    description = {**FINE, "weight_block_size": [32, 32], "dequantize": True}
    quantize(folder, of_blocks(32), ending="weight_scale_inv", size=32, description=description)
    ids = torch.randint(2048, (1, 20), generator=torch.Generator().manual_seed(1))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with Checkpoint.open(folder) as checkpoint:
        model = load_reference(checkpoint.config, checkpoint)
    logits = model(ids, torch.ones_like(ids), model.empty_cache(1))[0]
    assert (logits - theirs.eval()(ids, use_cache=False).logits).abs().max() < 1e-4


def test_float8_without_scales_and_description_is_widened_as_in_transformers(
    tiny_checkpoint: Write,
) -> None:
    folder = tiny_checkpoint()
    path = folder / "model.safetensors"
    narrow = {name: one.to(torch.float8_e4m3fn) for name, one in load_file(path).items()}
    save_file(narrow, path, metadata={"format": "pt"})
    assert_read(folder, {name: one.float() for name, one in narrow.items()})


def test_scales_of_activations_are_left_out_and_said(tiny_checkpoint: Write) -> None:
    layer = "model.layers.0.self_attn."
    names = (f"{layer}q_proj.input_scale", f"{layer}k_proj.activation_scale", f"{layer}k_scale")
    folder = tiny_checkpoint()
    beside = {name: torch.ones(1) for name in names}
    expected = quantize(folder, of_rows, ending="weight_scale", beside=beside)
    assert_read(folder, expected)
    with Checkpoint.open(folder) as checkpoint:
        (note,) = checkpoint.notes
        assert "scales of activations, such as" in note


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (None, r"up_proj\.weight is of type F8_E4M3 and has no scale beside it, expected weight"),
        (torch.ones(3, 2), r"up_proj\.weight_scale_inv has shape \(3, 2\), expected one scale"),
        (torch.ones(1, dtype=torch.int8), r"weight_scale_inv is of type I8, expected one of F32"),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    tiny_checkpoint: Write, scale: torch.Tensor | None, message: str
) -> None:
    folder = tiny_checkpoint()
    quantize(folder, of_blocks(128), ending="weight_scale_inv", description=FINE)
    path = folder / "model.safetensors"
    kept = {n: t for n, t in load_file(path).items() if n != f"{UP}.weight_scale_inv"}
    save_file({**kept, **({} if scale is None else {f"{UP}.weight_scale_inv": scale})}, path)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


def test_scale_beside_a_float_weight_is_unexpected(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    path = folder / "model.safetensors"
    save_file({**load_file(path), f"{UP}.weight_scale": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"up_proj\.weight_scale is unexpected"):
        Checkpoint.open(folder)


def test_code_that_is_no_number_is_named(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    quantize(folder, of_rows, ending="weight_scale")
    path = folder / "model.safetensors"
    save_file({**load_file(path), f"{UP}.weight_scale": torch.full((128, 1), np.nan)}, path)
    with (
        Checkpoint.open(folder) as checkpoint,
        pytest.raises(CheckpointError, match=r"up_proj\.weight holds 8192 values that are NaN"),
    ):
        checkpoint.read("layers.0.mlp.up.weight")


def test_a_scale_in_two_files_is_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    quantize(folder, of_rows, ending="weight_scale", description=COMPRESSED)
    own = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    scale = next(name for name in own if name.endswith("up_proj.weight_scale"))
    save_file(own, folder / "model-00001-of-00002.safetensors")
    save_file({scale: 1000 * own[scale]}, folder / "model-00002-of-00002.safetensors")
    files = {name: f"model-0000{1 + (name == scale)}-of-00002.safetensors" for name in own}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    with pytest.raises(CheckpointError, match=r"up_proj\.weight_scale is in .* expected it once"):
        Checkpoint.open(folder)
