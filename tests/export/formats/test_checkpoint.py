"""Tensors of a checkpoint in Hugging Face's layout: names, numbers, shards, damaged files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tracemalloc
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
from tramontane.export.model.load import load_reference
from tramontane.export.model.model import Mistral
from tramontane.runtime.errors import CheckpointError

Write = Callable[..., Path]
QUERY = "model.layers.0.self_attn.q_proj.weight"
SHARDED = {"max_shard_size": "300KB"}
INDEX = "model.safetensors.index.json"


def open_checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint.open(folder)


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Set tensors of model.safetensors, or take them out."""
    path = folder / "model.safetensors"
    kept = {**load_file(path), **tensors}
    save_file({name: t.clone() for name, t in kept.items() if t is not None}, path)


def rewrite_index(folder: Path, **weight_map: Any) -> None:
    index = json.loads((folder / INDEX).read_bytes())
    index["weight_map"].update(weight_map)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("tie", [False, True])
def test_every_parameter_of_the_model_has_a_tensor_of_its_shape(
    tiny_checkpoint: Write, tie: bool
) -> None:
    folder = tiny_checkpoint(tie=tie)
    checkpoint = open_checkpoint(folder)
    state = Mistral(checkpoint.config).state_dict()
    assert set(checkpoint.parameters) == set(state)
    for name, parameter in state.items():
        array = checkpoint.read(name)
        assert (array.shape, array.dtype) == (tuple(parameter.shape), np.float32)


def test_parameters_are_the_published_numbers(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    published = load_file(folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    np.testing.assert_array_equal(
        checkpoint.read("layers.0.attention.query.weight"), published[QUERY]
    )
    np.testing.assert_array_equal(checkpoint.read("head.weight"), published["lm_head.weight"])


def test_tied_head_is_the_embedding(tiny_checkpoint: Write) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(tie=True))
    np.testing.assert_array_equal(
        checkpoint.read("head.weight"), checkpoint.read("embedding.weight")
    )


@pytest.mark.situation("safetensors in shards and in one file", package="transformers")
def test_sharded_and_single_give_equal_numbers(tiny_checkpoint: Write) -> None:
    single = open_checkpoint(tiny_checkpoint())
    sharded = open_checkpoint(tiny_checkpoint(**SHARDED))
    assert len([path for path in sharded.files if path.suffix == ".safetensors"]) > 1
    for name in single.parameters:
        np.testing.assert_array_equal(single.read(name), sharded.read(name))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_widen_exactly(tiny_checkpoint: Write, dtype: str) -> None:
    wide, narrow = (
        open_checkpoint(tiny_checkpoint()),
        open_checkpoint(tiny_checkpoint(dtype=dtype)),
    )
    for name in wide.parameters:
        expected = torch.from_numpy(wide.read(name)).to(getattr(torch, dtype)).float()
        np.testing.assert_array_equal(narrow.read(name), expected)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "in pairs", "GGUF"])
def test_reading_holds_the_result_and_a_slice(
    tiny_checkpoint: Write,
    as_mistral: Write,
    as_gguf: Write,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint_module, "_SLICE_ELEMENTS", 4096)
    wide = {"num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 32}
    path = tiny_checkpoint(**wide, dtype="bfloat16" if kind == "bfloat16" else "float32")
    if kind == "in pairs":
        path = as_mistral(path)
    if kind == "GGUF":
        path = as_gguf(path, kind="Q8_0")
    checkpoint = Checkpoint.open(path)
    checkpoint.read("norm.weight")  # what is imported and cached on first use is no matter
    tracemalloc.start()
    try:
        array = checkpoint.read("layers.0.attention.query.weight")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert array.size > 30 * 4096
    assert peak_bytes < 1.25 * array.nbytes


def test_code_llama_is_read(tiny_checkpoint: Write) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    folder = tiny_checkpoint("LlamaForCausalLM", vocab_size=32016, rope_parameters=rope)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.config.rope_theta, checkpoint.config.sliding_window) == (1e6, None)
    assert checkpoint.read("head.weight").shape == (32016, 64)


def test_hashes_are_of_the_files_that_matter(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    hashes = open_checkpoint(folder).hashes()
    assert set(hashes) == {"config.json", "model.safetensors", "tokenizer.model"}
    for name, digest in hashes.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert INDEX in open_checkpoint(tiny_checkpoint(**SHARDED)).hashes()


def test_hashes_have_names_in_utf_8(tiny_checkpoint: Write, as_gguf: Write) -> None:
    path = as_gguf(tiny_checkpoint(), name="tiny\udcff.gguf")
    assert list(open_checkpoint(path).hashes()) == [r"tiny\udcff.gguf"]


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tekken.json",
    ],
)
def test_every_file_that_decides_the_tokens_is_hashed(tiny_checkpoint: Write, name: str) -> None:
    folder = tiny_checkpoint()
    (folder / name).write_text("{}")
    checkpoint = open_checkpoint(folder)
    assert folder / name in checkpoint.files
    assert checkpoint.hashes()[name] == hashlib.sha256(b"{}").hexdigest()


def test_reference_holds_the_checkpoint_and_leaves_the_random_state(
    tiny_checkpoint: Write,
) -> None:
    folder = tiny_checkpoint(dtype="bfloat16")
    checkpoint = open_checkpoint(folder)
    before = torch.get_rng_state()
    model = load_reference(checkpoint.config, checkpoint)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        np.testing.assert_array_equal(parameter, checkpoint.read(name))


def test_derived_buffers_are_ignored(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    change(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert "head.weight" in open_checkpoint(folder).parameters


def test_equal_head_beside_a_tied_embedding_is_allowed(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(tie=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change(folder, **{"lm_head.weight": embedding})
    open_checkpoint(folder)


def test_other_head_beside_a_tied_embedding_is_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(tie=True)
    change(folder, **{"lm_head.weight": torch.zeros(2048, 64)})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({QUERY: None}, f"{QUERY} is missing \\(1 missing in all\\)"),
        ({"lm_head.weight": None}, "lm_head.weight is missing"),
        (
            {"model.layers.0.self_attn.q_proj.bias": torch.full((64,), -0.5)},
            r"q_proj\.bias is not zero \(largest magnitude 0\.5\)",
        ),
        (
            {"model.layers.2.input_layernorm.weight": torch.ones(64)},
            r"layers\.2\.input_layernorm\.weight is unexpected \(1 such in all\)",
        ),
        ({"model.norm.extra": torch.ones(64)}, r"model\.norm\.extra is unexpected"),
        ({"lm_head.scale": torch.ones(64)}, r"lm_head\.scale is unexpected"),
        ({"score.lora_A.weight": torch.ones(64)}, r"score\.lora_A\.weight is unexpected"),
        ({QUERY: torch.ones(32, 64)}, r"q_proj.weight has shape \(32, 64\), .* \(64, 64\)"),
        ({QUERY: torch.ones(64, 64, dtype=torch.int8)}, "is of type I8, expected one of F32"),
    ],
)
def test_tensor_that_the_config_does_not_imply_is_refused(
    tiny_checkpoint: Write, tensors: dict[str, torch.Tensor | None], message: str
) -> None:
    folder = tiny_checkpoint()
    change(folder, **tensors)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_value_that_is_no_number_is_counted_and_placed(tiny_checkpoint: Write, bad: float) -> None:
    folder = tiny_checkpoint(dtype="bfloat16")
    weight = torch.ones(64, 64, dtype=torch.bfloat16)
    weight[3, 5] = weight[7, 0] = bad
    change(folder, **{QUERY: weight})
    checkpoint = open_checkpoint(folder)
    message = rf"model\.safetensors: {QUERY} holds 2 values .* the first at \(3, 5\)"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read("layers.0.attention.query.weight")
    rows = checkpoint.rows_of("layers.0.attention.query.weight")
    assert rows is not None
    assert rows(0, 3).shape == (3, 64)
    with pytest.raises(CheckpointError, match=message):
        rows(7, 8)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "in pairs", "GGUF"])
def test_rows_are_those_of_the_whole_where_the_file_has_them_as_they_are(
    tiny_checkpoint: Write, as_mistral: Write, as_gguf: Write, kind: str
) -> None:
    path = tiny_checkpoint(dtype="bfloat16" if kind == "bfloat16" else "float32")
    path = {"in pairs": as_mistral, "GGUF": lambda at: as_gguf(at, kind="Q8_0")}.get(
        kind, lambda at: at
    )(path)
    checkpoint = Checkpoint.open(path)
    for name in checkpoint.parameters:
        rows, whole = checkpoint.rows_of(name), checkpoint.read(name)
        is_paired = kind in ("in pairs", "GGUF") and name.endswith(("query.weight", "key.weight"))
        assert (rows is None) == (whole.ndim == 1 or is_paired), name
        if rows is not None:
            np.testing.assert_array_equal(rows(3, 10), whole[3:10])
    assert checkpoint.rows_of("none") is None


def test_unknown_parameter_is_refused(tiny_checkpoint: Write) -> None:
    with pytest.raises(CheckpointError, match="no parameter 'query'"):
        open_checkpoint(tiny_checkpoint()).read("query")


def test_folder_without_weights_is_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"no weights, expected model\.safetensors or pytorch_model\.bin"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_file_is_named(tiny_checkpoint: Write, size: int) -> None:
    path = tiny_checkpoint() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: unreadable .*again"):
        open_checkpoint(path.parent)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_file_lost_after_opening_is_read_as_it_was_and_named(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    expected = open_checkpoint(folder).read("head.weight")
    checkpoint = open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    np.testing.assert_array_equal(checkpoint.read("head.weight"), expected)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: was removed while"):
        checkpoint.refuse_changed()


def test_closed_checkpoint_is_named_and_knows_its_hashes(tiny_checkpoint: Write) -> None:
    with open_checkpoint(tiny_checkpoint()) as checkpoint:
        hashes = checkpoint.hashes()
    assert checkpoint.hashes() == hashes
    checkpoint.refuse_changed()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: unreadable .*closed"):
        checkpoint.read("head.weight")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": []}}', '{"a":' * 100_000],
    ids=["cut", "list", "empty", "map-list", "name-list", "deep"],
)
def test_index_that_is_none_is_refused(tiny_checkpoint: Write, text: str) -> None:
    folder = tiny_checkpoint(**SHARDED)
    (folder / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json: not an index"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "/etc/passwd", "..", "a/../../b", "c:\\d", 7]
)
def test_index_that_leaves_the_folder_is_refused(tiny_checkpoint: Write, name: Any) -> None:
    folder = tiny_checkpoint(**SHARDED)
    rewrite_index(folder, **{QUERY: name})
    with pytest.raises(CheckpointError, match="expected the name of a file in the same folder"):
        open_checkpoint(folder)


def test_missing_shard_is_named(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(**SHARDED)
    next(folder.glob("model-00001*")).unlink()
    with pytest.raises(CheckpointError, match="names model-00001.*, which is missing"):
        open_checkpoint(folder)


def test_tensor_in_another_shard_than_the_index_says_is_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(**SHARDED)
    shards = sorted(path.name for path in folder.glob("model-*"))
    home = json.loads((folder / INDEX).read_bytes())["weight_map"][QUERY]
    rewrite_index(folder, **{QUERY: next(name for name in shards if name != home)})
    with pytest.raises(CheckpointError, match="expected them to agree") as refusal:
        open_checkpoint(folder)
    follow(str(refusal.value))
    assert hashed(folder) == hashed(tiny_checkpoint(**SHARDED))


def follow(message: str) -> None:
    """Run the command that a message gives in brackets."""
    (command,) = re.findall(r"\((rm [^)]*)\)", message)
    assert "download" not in message
    subprocess.run(command, shell=True, check=True)


def hashed(folder: Path) -> dict[str, str]:
    checkpoint = open_checkpoint(folder)
    return {
        name: hashlib.sha256(checkpoint.read(name).tobytes()).hexdigest()
        for name in checkpoint.parameters
    }


def test_single_file_is_read_and_not_the_index_beside_it(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    expected = hashed(folder)
    shutil.copy(tiny_checkpoint(**SHARDED) / INDEX, folder)
    with open_checkpoint(folder) as checkpoint:
        (note,) = checkpoint.notes
        assert f"model.safetensors: is read, and not {INDEX} beside it" in note
        assert INDEX not in checkpoint.hashes()
    assert hashed(folder) == expected


def test_index_may_name_what_is_nowhere_and_leave_out_what_is_there(
    tiny_checkpoint: Write,
) -> None:
    folder = tiny_checkpoint(**SHARDED)
    expected = hashed(folder)
    weight_map = json.loads((folder / INDEX).read_bytes())["weight_map"]
    shard = weight_map.pop("lm_head.weight")  # alone in its file, which no entry names then
    assert shard not in weight_map.values()
    other = {**weight_map, "model.rotary_emb.inv_freq": weight_map[QUERY]}
    (folder / INDEX).write_text(json.dumps({"weight_map": other}))
    assert hashed(folder) == expected


def test_tensor_in_two_shards_is_refused_where_the_model_needs_it(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(**SHARDED)
    first, second, *_ = sorted(folder.glob("model-*"))
    own = load_file(second)
    save_file({**own, "model.layers.0.masked_bias": torch.ones(2)}, second)
    save_file({**load_file(first), "model.layers.0.masked_bias": torch.ones(2)}, first)
    hashed(folder)
    name = next(iter(own))
    save_file({**load_file(first), name: own[name]}, first)
    with pytest.raises(CheckpointError, match=f"{name} is in {first.name} and in {second.name}"):
        open_checkpoint(folder)


def test_index_of_another_saving_is_named_and_its_removal_helps(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(**SHARDED)
    other = tiny_checkpoint(max_shard_size="200KB")
    shutil.copy(other / INDEX, folder)
    with pytest.raises(CheckpointError, match="is of a model saved later, remove it") as refusal:
        open_checkpoint(folder)
    follow(str(refusal.value).replace("download it, or", ""))
    assert hashed(folder) == hashed(other)


def test_numbered_files_are_read_without_an_index(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(**SHARDED)
    expected = hashed(folder)
    (folder / INDEX).unlink()
    assert hashed(folder) == expected


def test_numbered_file_that_is_missing_is_named_without_an_index(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(**SHARDED)
    (folder / INDEX).unlink()
    first = next(folder.glob("model-00001*"))
    first.unlink()
    with pytest.raises(CheckpointError, match=f"{first.name} is missing, expected all"):
        open_checkpoint(folder)


def test_numbered_files_of_two_saved_models_are_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint(**SHARDED)
    (folder / INDEX).unlink()
    first = next(folder.glob("model-00001*"))
    twin = shutil.copy(first, folder / first.name.replace("00001-of", "00002-of"))
    with pytest.raises(CheckpointError, match=f"is in {first.name} and in {Path(twin).name}"):
        open_checkpoint(folder)
    shutil.copy(first, folder / "model-00001-of-00009.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds files of 2 saved models, in \d+ and in 00009"
    ):
        open_checkpoint(folder)


HEADS = {
    "v_head.summary.weight": torch.ones(1, 64),
    "v_head.summary.bias": torch.ones(1),
    "score.weight": torch.ones(2, 64),
}


@pytest.mark.situation("the head of a reward model beside the decoder", package="transformers")
def test_heads_of_another_task_are_named_and_left_out_as_in_transformers(
    tiny_checkpoint: Write,
) -> None:
    folder = tiny_checkpoint(dtype="float32")
    path = folder / "model.safetensors"
    save_file({**load_file(path), **HEADS}, path, metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    (note,) = checkpoint.notes
    assert note.startswith(f"{folder}: tensors that are not of the decoder are not read")
    assert all(name in note for name in HEADS)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.arange(3, 40)[None]
    model = load_reference(checkpoint.config, checkpoint)
    with torch.no_grad():
        ours, _ = model(tokens, torch.ones_like(tokens), model.empty_cache())
        torch.testing.assert_close(ours, theirs(tokens).logits, atol=1e-4, rtol=1e-4)
