"""float8 weights are dequantized as the libraries that write them dequantize them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.tensor_names import HUGGING_FACE

Write = Callable[..., Path]
LARGEST = 448.0  # of float8_e4m3fn
WIDE = {"hidden_size": 160, "intermediate_size": 288}  # blocks of 128 end short


def stored(folder: Path, description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"] = description
    (folder / "config.json").write_text(json.dumps(config))


def assert_read(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    with Checkpoint.open(folder) as checkpoint:
        for parameter in checkpoint.parameters:
            name = HUGGING_FACE.published(parameter)
            if name in expected:
                np.testing.assert_array_equal(checkpoint.read(parameter), expected[name], name)


def test_fbgemm_rows_are_multiplied_as_torch_multiplies_them(tiny_checkpoint: Write) -> None:
    """``FbgemmFp8Linear.forward`` calls ``torch._scaled_mm`` so; the identity gives the weight.

    Source: transformers 5.23, integrations/fbgemm_fp8.py, where no fbgemm is.
    """
    folder = tiny_checkpoint(**WIDE)
    tensors, expected = load_file(folder / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        if "_proj" in name:
            scale = weight.abs().amax(dim=1, keepdim=True) / LARGEST
            codes = (weight / scale).to(torch.float8_e4m3fn)
            tensors |= {name: codes, f"{name}_scale": scale}
            one = torch.eye(weight.shape[1]).to(torch.float8_e4m3fn)
            product = torch._scaled_mm(
                one,
                codes.t(),
                scale_a=torch.ones(len(one), 1),
                scale_b=scale.t(),
                out_dtype=torch.float32,
            )
            expected[name] = product.t().contiguous()
    stored(folder, {"quant_method": "fbgemm_fp8"}, tensors)
    assert len(expected) == 14
    assert_read(folder, expected)


def weights(**more: Any) -> dict[str, Any]:
    return {"num_bits": 8, "type": "float", "symmetric": True, **more}


KINDS = {
    "tensor": ("float-quantized", weights(strategy="tensor")),
    "channel": ("float-quantized", weights(strategy="channel")),
    "group": ("float-quantized", weights(strategy="group", group_size=32)),
    "block": ("float-quantized", weights(strategy="block", block_structure=[128, 128])),
    "small block": ("naive-quantized", weights(strategy="block", block_structure=[32, 32])),
    "mxfp8": (
        "mxfp8-quantized",
        weights(strategy="group", group_size=32, scale_dtype="torch.uint8"),
    ),
}


def scales_of(weight: torch.Tensor, described: dict[str, Any]) -> torch.Tensor:
    """Scales in the layout that the package expects."""
    rows, columns = weight.shape
    height, width = {
        "tensor": (rows, columns),
        "channel": (1, columns),
        "group": (1, described.get("group_size", columns)),
        "block": described.get("block_structure", (rows, columns)),
    }[described["strategy"]]
    parts = [part.split(width, dim=1) for part in weight.split(height)]
    scale = torch.stack([torch.stack([one.abs().max() / LARGEST for one in row]) for row in parts])
    if "scale_dtype" in described:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    return scale.reshape(1) if described["strategy"] == "tensor" else scale


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_tensors_are_dequantized_as_by_their_package(
    tiny_checkpoint: Write, kind: str
) -> None:
    package = pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    assert package.__version__
    name_of_format, described = KINDS[kind]
    scheme = QuantizationScheme(
        targets=["Linear"], weights=described, format=name_of_format, input_activations=None
    )
    compressor = BaseCompressor.get_value_from_registry(name_of_format)
    folder = tiny_checkpoint(**WIDE)
    tensors, expected = load_file(folder / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        if "_proj" in name:
            scale = scales_of(weight, described)
            packed = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
            base = name.removesuffix("weight")
            tensors |= {base + own: one for own, one in packed.items()}
            expected[name] = compressor.decompress(packed, scheme)["weight"].float()
    group = {"targets": ["Linear"], "weights": described, "format": name_of_format}
    description = {
        "quant_method": "compressed-tensors",
        "format": name_of_format,
        "config_groups": {"group_0": group},
    }
    stored(folder, description, tensors)
    assert len(expected) == 14
    assert_read(folder, expected)
