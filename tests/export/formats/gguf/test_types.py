"""Is each type of GGUF's tensors read as the package that llama.cpp publishes dequantizes it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from tramontane.export.formats import checkpoint as checkpoint_module
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.gguf.file import read_gguf, readable_types
from tramontane.runtime.errors import CheckpointError

Write = Callable[..., Path]
QUERY, KEY, DOWN = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.1.ffn_down.weight"
FLOAT = ("F32", "F16", "BF16")
BLOCKS_OF_32 = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4")
K = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
I = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS")  # noqa: E741
TERNARY = ("TQ1_0", "TQ2_0")
SHAPES = {QUERY: (256, 256), KEY: (128, 256)}
WIDE = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}


def to_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo the permutation that llama.cpp's converter makes."""
    rows, columns = weight.shape
    weight = weight.reshape(heads, rows // heads // 2, 2, columns)
    return weight.swapaxes(1, 2).reshape(rows, columns)


def random_blocks(kind: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Any bytes are a valid block, unless its scale is no number: such blocks get other bytes."""
    dtype = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[dtype]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // block, size), dtype=np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        while (bad := ~np.isfinite(gguf.dequantize(blocks, dtype)).all(axis=1)).any():
            blocks[bad] = rng.integers(0, 256, (bad.sum(), size), dtype=np.uint8)
    return blocks.reshape(shape[0], -1)


def quantized(kind: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Random weights in a type; None where the package does not quantize to it."""
    weights = np.random.default_rng(1).normal(0, 0.05, shape).astype(np.float32)
    try:
        return gguf.quantize(weights, gguf.GGMLQuantizationType[kind])
    except NotImplementedError:
        return None


def test_all_types_that_the_package_dequantizes_are_read() -> None:
    assert set(readable_types()) >= {*FLOAT, *BLOCKS_OF_32, *K, *I, *TERNARY}
    registered = {kind.name for kind in gguf.quants._type_traits}
    assert set(readable_types()) == {*registered, "F32", "F16"}


NOT_READ = sorted({kind.name for kind in gguf.GGMLQuantizationType} - {*readable_types()})


@pytest.mark.parametrize("kind", NOT_READ)
def test_types_that_the_package_knows_and_does_not_dequantize_are_refused_by_name(
    tiny_checkpoint: Write, as_gguf: Write, kind: str
) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    shape = (256, 256 // block * size)
    path = as_gguf(
        tiny_checkpoint(**WIDE), tensors={QUERY: np.zeros(shape, np.uint8)}, kinds={QUERY: kind}
    )
    with pytest.raises(
        CheckpointError, match=rf"attn_q\.weight is of type {kind}, expected one of"
    ):
        Checkpoint.open(path)


@pytest.mark.situation("GGUF tensors with a scale beside them, as of NVFP4", package="gguf")
def test_the_scale_beside_a_matrix_multiplies_it(tiny_checkpoint: Write, as_gguf: Write) -> None:
    blocks = {name: random_blocks("NVFP4", shape) for name, shape in SHAPES.items()}
    scales = {QUERY: 0.25, KEY: 3.0, "output.weight": 0.5}
    beside = {
        name.replace("weight", ending): np.full(1, scale, np.float32)
        for name, scale in scales.items()
        for ending in ("scale", "input_scale")
    }
    path = as_gguf(
        tiny_checkpoint(**WIDE),
        tensors={**blocks, **beside},
        kinds={**dict.fromkeys(blocks, "NVFP4"), "output.weight": "F16"},
    )
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with Checkpoint.open(path) as checkpoint:
        assert any(
            "scales of activations, such as blk.0.attn_k.inp" in n for n in checkpoint.notes
        )
        for name, parameter, heads in (
            (QUERY, "layers.0.attention.query.weight", 4),
            (KEY, "layers.0.attention.key.weight", 2),
            ("output.weight", "head.weight", None),
        ):
            plain = gguf.dequantize(stored[name].data, stored[name].tensor_type)
            expected = np.float32(scales[name]) * (to_halves(plain, heads) if heads else plain)
            np.testing.assert_array_equal(checkpoint.read(parameter), expected, err_msg=name)


def test_a_scale_of_several_numbers_or_of_no_matrix_is_refused(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    for name, shape, message in (
        (
            "blk.0.attn_q.scale",
            2,
            r"scale has shape \(2,\), expected one scale for blk\.0\.attn_q",
        ),
        ("blk.0.attn_norm.scale", 1, r"blk\.0\.attn_norm\.scale is unexpected"),
        ("token_embd.scale", 1, r"token_embd\.scale is unexpected"),
    ):
        path = as_gguf(tiny_checkpoint(), tensors={name: np.ones(shape, np.float32)})
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(path)


@pytest.mark.situation("GGUF tensors of every type that the package dequantizes", package="gguf")
@pytest.mark.parametrize("kind", sorted(readable_types()))
def test_rows_of_each_type_read_as_the_package_dequantizes_the_whole(
    kind: str, tmp_path: Path
) -> None:
    shape, dtype = (17, 512), gguf.GGMLQuantizationType[kind]
    held = {"random": random_blocks(kind, shape), "quantized": quantized(kind, shape)}
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    for name, data in held.items():
        if data is not None:
            writer.add_tensor(name, data.view(np.uint8), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name, tensor in read_gguf(tmp_path / "a.gguf").tensors.items():
        assert (tensor.dtype, tensor.shape) == (kind, shape)
        data = held[name]
        assert data is not None
        expected = gguf.dequantize(data, dtype)
        assert expected.max() > 0.05
        assert expected.min() < -0.05
        for rows in (1, 5, 17):
            found = np.concatenate(list(tensor.slices(rows)))
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}, {rows} rows")


@pytest.mark.slow
@pytest.mark.parametrize("elements", [1, 5000, 1 << 20])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_parameters_have_their_rows_in_order_whatever_the_slices(
    tiny_checkpoint: Write,
    as_gguf: Write,
    kind: str,
    elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint_module, "_SLICE_ELEMENTS", elements)
    path = as_gguf(tiny_checkpoint(), kind=kind)
    checkpoint = Checkpoint.open(path)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert stored[QUERY].tensor_type.name == kind
    for name, parameter, heads in (
        (QUERY, "layers.0.attention.query.weight", 4),
        (KEY, "layers.0.attention.key.weight", 2),
        ("blk.1.ffn_down.weight", "layers.1.mlp.down.weight", None),
        ("token_embd.weight", "embedding.weight", None),
    ):
        expected = gguf.dequantize(stored[name].data, stored[name].tensor_type)
        if heads:
            expected = to_halves(expected, heads)
        found = checkpoint.read(parameter)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.situation(
    "GGUF file of several types, as Q4_K_M of a width that 256 does not divide", package="gguf"
)
def test_type_of_rows_that_blocks_of_256_do_not_divide_falls_back_to_another(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    """llama.cpp's Q4_K_M of a model 64 wide: Q5_0 and Q8_0, but for the matrices 256 wide."""
    kinds = {DOWN: "Q4_K", "blk.0.ffn_down.weight": "Q6_K"}
    blocks = {name: random_blocks(kind, (64, 256)) for name, kind in kinds.items()}
    path = as_gguf(
        tiny_checkpoint(intermediate_size=256),
        kind="Q5_0",
        tensors=blocks,
        kinds={**kinds, "output.weight": "Q8_0", "blk.0.attn_v.weight": "F16"}
        | {"token_embd.weight": "BF16", "blk.0.attn_output.weight": "F32"},
    )
    checkpoint = Checkpoint.open(path)
    found = {tensor.dtype for tensor in checkpoint.published.tensors.values()}
    assert found == {"F32", "F16", "BF16", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, parameter in (
        (DOWN, "layers.1.mlp.down.weight"),
        ("output.weight", "head.weight"),
        ("token_embd.weight", "embedding.weight"),
        ("blk.0.attn_v.weight", "layers.0.attention.value.weight"),
        ("blk.0.attn_output.weight", "layers.0.attention.output.weight"),
        ("blk.0.ffn_up.weight", "layers.0.mlp.up.weight"),
    ):
        expected = gguf.dequantize(stored[name].data, stored[name].tensor_type)
        np.testing.assert_array_equal(checkpoint.read(parameter), expected, err_msg=name)


@pytest.mark.parametrize("kind", ["Q4_K", "IQ3_S"])
def test_parameters_of_blocks_of_256_have_their_rows_in_order(
    tiny_checkpoint: Write, as_gguf: Write, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "_SLICE_ELEMENTS", 256 * 70)  # 64 rows, then 64
    blocks = {name: random_blocks(kind, shape) for name, shape in SHAPES.items()}
    path = as_gguf(tiny_checkpoint(**WIDE), tensors=blocks, kinds=dict.fromkeys(blocks, kind))
    checkpoint = Checkpoint.open(path)
    assert checkpoint.published.tensors[QUERY].dtype == kind
    for parameter, name, heads in (("query", QUERY, 4), ("key", KEY, 2)):
        expected = gguf.dequantize(blocks[name], gguf.GGMLQuantizationType[kind])
        assert np.isfinite(expected).all()
        assert np.ptp(expected) > 1
        np.testing.assert_array_equal(
            checkpoint.read(f"layers.0.attention.{parameter}.weight"),
            to_halves(expected, heads),
        )


def test_type_that_is_not_read_is_refused_by_name(tiny_checkpoint: Write, as_gguf: Write) -> None:
    path = as_gguf(tiny_checkpoint(), tensors={QUERY: np.zeros((64, 64), np.int32)})
    message = r"attn_q\.weight is of type I32, expected one of F32, .*; start from the float"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


def test_scale_that_is_no_number_is_found_in_the_blocks_it_spoils(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    blocks = gguf.quantize(np.ones((64, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    blocks[3, :2] = np.array([np.nan], np.float16).view(np.uint8)
    checkpoint = Checkpoint.open(as_gguf(tiny_checkpoint(), kind="Q8_0", tensors={QUERY: blocks}))
    with pytest.raises(CheckpointError, match=r"holds 32 values .* the first at \(3, 0\)"):
        checkpoint.read("layers.0.attention.query.weight")
