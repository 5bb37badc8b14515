from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tramontane.export.formats import checkpoint as checkpoint_module
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.gguf.file import read_gguf
from tramontane.export.formats.layouts import read_config
from tramontane.runtime.errors import CheckpointError, ConfigError

Write = Callable[..., Path]
QUERY, KEY = "blk.0.attn_q.weight", "blk.0.attn_k.weight"
SHAPES = {"blk.0.attn_q.weight": (256, 256), "blk.0.attn_k.weight": (128, 256)}
WIDE = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}


def to_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo the permutation that llama.cpp's converter makes."""
    rows, columns = weight.shape
    weight = weight.reshape(heads, rows // heads // 2, 2, columns)
    return weight.swapaxes(1, 2).reshape(rows, columns)


def random_blocks(kind: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Any bytes are a valid block, but for its scales, which are halves near 1 / 16.

    Source: gguf, quants.py, for where a block of each type has them.
    """
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    scales = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (shape[0], shape[1] // block, size), dtype=np.uint8)
    for at in scales:
        halves = rng.uniform(0.03, 0.1, blocks.shape[:2]).astype(np.float16)
        blocks[..., at : at + 2] = halves[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1)


@pytest.mark.parametrize("elements", [1, 5000, 1 << 20])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_each_type_reads_as_the_package_dequantizes_the_whole(
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


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_each_k_type_reads_as_the_package_dequantizes_the_whole(
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


def test_metadata_is_the_config(tiny_checkpoint: Write, as_gguf: Write) -> None:
    source = tiny_checkpoint(rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    config = read_config(as_gguf(source))
    assert config == read_config(source)
    assert (config.rope_theta, config.rms_norm_eps) == (1e6, 1e-6)


def test_left_out_metadata_means_what_llama_cpp_takes_for_granted(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    source = tiny_checkpoint("LlamaForCausalLM", num_key_value_heads=4)
    names = ("rope.freq_base", "rope.dimension_count", "vocab_size", "attention.head_count_kv")
    names += ("attention.key_length", "attention.value_length")
    config = read_config(as_gguf(source, metadata={f"llama.{name}": None for name in names}))
    assert (config.rope_theta, config.head_dim, config.num_key_value_heads) == (1e4, 16, 4)
    assert config.vocab_size == 2048
    assert config.architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    "nothing",
    [
        {"llama.attention.sliding_window": 0},
        {"llama.expert_count": 0, "llama.expert_used_count": 0},
        {"llama.rope.scaling.type": "none"},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.type": "linear"},  # llama.cpp: no factor is 1
        {"general.name": "any", "quantize.imatrix.file": "any"},
    ],
    ids=str,
)
def test_metadata_that_says_nothing_is_no_matter(
    tiny_checkpoint: Write, as_gguf: Write, nothing: dict[str, Any]
) -> None:
    source = tiny_checkpoint("LlamaForCausalLM")
    assert read_config(as_gguf(source, metadata=nothing)) == read_config(source)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, r"llama\.rope\.scaling\.type \('yarn'\) is not"),
        ({"llama.rope.scaling.factor": 4.0}, r"llama\.rope\.scaling\.factor \(4\.0\) is not"),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            r"llama\.rope\.scaling\.factor \(4\.0\) is not",
        ),
        ({"llama.expert_count": 8}, r"llama\.expert_count \(8\) is not supported"),
        ({"llama.logit_scale": 2.0}, r"llama\.logit_scale .* it may change the model"),
        ({"llama.attention.head_count": [4, 2]}, r"attention\.head_count is \[4, 2\]; expected"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8; expected one head size"),
        ({"llama.attention.value_length": 32}, "value_length is 32, .*expected one head size"),
        ({"llama.block_count": None}, "block_count is missing"),
        ({"llama.rope.freq_base": 0.0}, r"rope_theta is 0\.0; expected a finite number above 0"),
        ({"tokenizer.ggml.bos_token_id": "one"}, "bos_token_id is 'one'; expected a number"),
    ],
)
def test_metadata_that_would_change_the_model_is_refused_by_name(
    tiny_checkpoint: Write, as_gguf: Write, metadata: dict[str, Any], message: str
) -> None:
    path = as_gguf(tiny_checkpoint(), metadata=metadata)
    with pytest.raises(ConfigError, match=message) as refusal:
        read_config(path)
    assert str(refusal.value).startswith(str(path))


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"rope_freqs.weight": np.ones(8, np.float32)}, ConfigError, r"rope scaling \(tensor"),
        ({"blk.0.attn_q.bias": np.ones(64, np.float32)}, CheckpointError, "bias is not zero"),
        ({QUERY: None}, CheckpointError, r"attn_q\.weight is missing .*its metadata implies"),
        ({QUERY: np.ones((32, 64), np.float32)}, CheckpointError, r"\(32, 64\), its metadata"),
        ({QUERY: np.ones((64, 64), np.int8)}, CheckpointError, "is of type I8, expected one of"),
    ],
)
def test_tensor_that_the_metadata_does_not_imply_is_refused(
    tiny_checkpoint: Write,
    as_gguf: Write,
    tensors: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    path = as_gguf(tiny_checkpoint(), tensors=tensors)
    with pytest.raises(error, match=message):
        Checkpoint.open(path)


def test_type_that_is_not_read_is_refused_by_name(tiny_checkpoint: Write, as_gguf: Write) -> None:
    path = as_gguf(tiny_checkpoint(), kind="Q5_1")
    message = r"is of type Q5_1, expected one of F32, .*, Q6_K; start from the float checkpoint"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


def test_other_architecture_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "mistral3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    message = r"general\.architecture is 'mistral3', expected 'llama'"
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "a.gguf")


def test_scale_that_is_no_number_is_found_in_the_blocks_it_spoils(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    blocks = gguf.quantize(np.ones((64, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    blocks[3, :2] = np.array([np.nan], np.float16).view(np.uint8)
    checkpoint = Checkpoint.open(as_gguf(tiny_checkpoint(), kind="Q8_0", tensors={QUERY: blocks}))
    with pytest.raises(CheckpointError, match=r"holds 32 values .* the first at \(3, 0\)"):
        checkpoint.read("layers.0.attention.query.weight")


@pytest.mark.parametrize("size", [0, 3, 20, 1000, 50_000, -1])
def test_truncated_file_is_named(tiny_checkpoint: Write, as_gguf: Write, size: int) -> None:
    path = as_gguf(tiny_checkpoint())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.gguf: unreadable .*download it again"):
        Checkpoint.open(path)


def test_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK" * 1000)
    with pytest.raises(CheckpointError, match="expected a whole GGUF file"):
        read_gguf(tmp_path / "a.gguf")


def test_file_cut_after_opening_is_named(tiny_checkpoint: Write, as_gguf: Write) -> None:
    path = as_gguf(tiny_checkpoint())
    checkpoint = Checkpoint.open(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.gguf: ends within output\.weight"):
        checkpoint.read("head.weight")


def test_part_of_a_model_is_refused(tiny_checkpoint: Write, as_gguf: Write) -> None:
    path = as_gguf(tiny_checkpoint(), metadata={"split.count": 3})
    with pytest.raises(CheckpointError, match="one of 3 parts, expected the whole model; merge"):
        Checkpoint.open(path)


def test_file_of_a_machine_that_orders_bytes_otherwise_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="byte order of another kind of machine"):
        read_gguf(tmp_path / "a.gguf")
