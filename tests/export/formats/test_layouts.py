"""One model in every layout: the same weights, logits and artifact."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.formats import checkpoint as checkpoint_module
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import read_config
from tramontane.export.model.load import load_reference
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.runtime.contract import DATA_FILE, MODEL_FILE
from tramontane.runtime.errors import CheckpointError, ConfigError

Write = Callable[..., Path]
BOUND = 1e-4  # largest |difference| of two float32 logits
LLAMA = {"architecture": "LlamaForCausalLM"}
# Head sizes and counts that differ from each other, so that no two shapes are alike by chance.
KINDS: list[dict[str, Any]] = [
    {},
    {"tie": True},
    {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8},
    {"num_key_value_heads": 1, "head_dim": 32},
    {"dtype": "float16"},
]


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.parameters == expected.parameters
    for name in expected.parameters:
        array = found.read(name)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected.read(name), err_msg=name)


def assert_logits_are_those_of_transformers(checkpoint: Checkpoint, published: Path) -> None:
    ids = torch.randint(2048, (2, 24), generator=torch.Generator().manual_seed(1))
    model = load_reference(checkpoint.config, checkpoint)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        published, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        found, _ = model(ids, torch.ones_like(ids), model.empty_cache(2))
        expected = theirs.eval()(ids, use_cache=False).logits
    assert (found - expected).abs().max() <= BOUND


@pytest.fixture(params=[1, 1000, 1 << 20], ids="{} elements a slice".format)
def _slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "_SLICE_ELEMENTS", request.param)


@pytest.mark.usefixtures("_slices")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_mistral_layout_reads_as_the_same_weights_in_hugging_faces(
    tiny_checkpoint: Write, as_mistral: Write, kind: dict[str, Any]
) -> None:
    published = tiny_checkpoint(**kind)
    found, expected = Checkpoint.open(as_mistral(published)), Checkpoint.open(published)
    assert found.layout == "Mistral"
    # Where the tokens start and end, only the tokenizer says.
    ids = {"bos_token_id": None, "eos_token_ids": ()}
    assert found.config == dataclasses.replace(expected.config, **ids)
    assert_equal(found, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("_slices")
@pytest.mark.parametrize("kind", [*KINDS, LLAMA, {**LLAMA, "tie": True}], ids=str)
def test_gguf_reads_as_the_same_weights_in_hugging_faces(
    tiny_checkpoint: Write, as_gguf: Write, kind: dict[str, Any]
) -> None:
    published = tiny_checkpoint(**kind)
    stored = "F16" if kind.get("dtype") == "float16" else "F32"
    found, expected = (
        Checkpoint.open(as_gguf(published, kind=stored)),
        Checkpoint.open(published),
    )
    assert found.layout == "GGUF"
    assert found.config == expected.config
    assert_equal(found, expected)


@pytest.mark.situation(
    "Mistral's own layout (`params.json`), and GGUF, of one Mistral", package="transformers"
)
@pytest.mark.parametrize("kind", KINDS[:4], ids=str)
def test_logits_of_every_layout_are_those_of_transformers(
    tiny_checkpoint: Write, as_mistral: Write, as_gguf: Write, kind: dict[str, Any]
) -> None:
    published = tiny_checkpoint(**kind)
    for path in (as_mistral(published), as_gguf(published)):
        assert_logits_are_those_of_transformers(Checkpoint.open(path), published)


@pytest.mark.parametrize("fault", ["query", "key"])
def test_planted_rows_in_the_wrong_order_fail_the_same_bound(
    tiny_checkpoint: Write, as_mistral: Write, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tiny_checkpoint()
    other = {"query": "key", "key": "query"}[fault]
    monkeypatch.setattr(
        checkpoint_module, "is_rotated", lambda name: name.endswith(f"attention.{other}.weight")
    )
    with pytest.raises(AssertionError):
        assert_logits_are_those_of_transformers(Checkpoint.open(as_mistral(published)), published)


@pytest.mark.slow
def test_artifact_of_mistrals_layout_has_the_bytes_of_hugging_faces(
    tiny_checkpoint: Write, as_mistral: Write, tmp_path: Path
) -> None:
    published = tiny_checkpoint(dtype="bfloat16", bos_token_id=1, eos_token_id=2)
    options = ExportOptions(quant="int8", target="ort")
    manifests = [
        export_checkpoint(path, tmp_path / out, options)
        for path, out in ((published, "a"), (as_mistral(published), "b"))
    ]
    for name in (MODEL_FILE, DATA_FILE, "tokenizer.model"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert manifests[0].vocabulary == manifests[1].vocabulary
    assert set(manifests[1].source) == {
        "consolidated.safetensors",
        "params.json",
        "tokenizer.model",
    }
    # The config.json that was written in place of a published one says the same.
    assert read_config(tmp_path / "b") == read_config(tmp_path / "a")


def test_artifact_of_a_gguf_file_is_whole(
    tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path
) -> None:
    published = tiny_checkpoint()
    path = as_gguf(published)
    options = ExportOptions(quant="fp32", target="ort")
    manifest = export_checkpoint(path, tmp_path / "a", options)
    export_checkpoint(published, tmp_path / "b", options)
    assert set(manifest.source) == {path.name}
    assert read_config(tmp_path / "a") == read_config(published)
    data = [(tmp_path / out / DATA_FILE).read_bytes() for out in "ab"]
    assert data[0] == data[1]


def test_folder_with_both_layouts_is_read_as_hugging_faces(
    tiny_checkpoint: Write, as_mistral: Write
) -> None:
    published = tiny_checkpoint()
    shutil.copytree(as_mistral(published), published, dirs_exist_ok=True)
    checkpoint = Checkpoint.open(published)
    assert checkpoint.layout == "Hugging Face"
    names = {path.name for path in checkpoint.files}
    assert names == {"config.json", "model.safetensors", "tokenizer.model"}


def test_config_json_beside_mistrals_weights_alone_is_not_read(
    tiny_checkpoint: Write, as_mistral: Write
) -> None:
    published = tiny_checkpoint()
    shutil.copytree(as_mistral(published), published, dirs_exist_ok=True)
    (published / "model.safetensors").unlink()
    checkpoint = Checkpoint.open(published)
    assert checkpoint.layout == "Mistral"
    assert checkpoint.config_json() is None


def test_folder_with_one_gguf_file_is_that_file(tiny_checkpoint: Write, as_gguf: Write) -> None:
    path = as_gguf(tiny_checkpoint())
    checkpoint = Checkpoint.open(path.parent)
    assert (checkpoint.path, checkpoint.files) == (path, [path])


def test_gguf_beside_a_whole_folder_is_not_read(tiny_checkpoint: Write, as_gguf: Write) -> None:
    published = tiny_checkpoint()
    shutil.copy(as_gguf(published), published)
    assert Checkpoint.open(published).layout == "Hugging Face"


@pytest.mark.parametrize("layout", ["Hugging Face", "Mistral"])
def test_config_is_read_without_weights(
    tiny_checkpoint: Write, as_mistral: Write, layout: str
) -> None:
    folder = tiny_checkpoint()
    if layout == "Mistral":
        folder = as_mistral(folder)
    expected = Checkpoint.open(folder).config
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert read_config(folder) == expected
    with pytest.raises(CheckpointError, match="holds no weights, expected"):
        Checkpoint.open(folder)


def test_two_gguf_files_are_named(tiny_checkpoint: Write, as_gguf: Write) -> None:
    published = tiny_checkpoint()
    as_gguf(published, name="b.gguf")
    folder = as_gguf(published, name="a.gguf").parent
    with pytest.raises(ConfigError, match=r"holds 2 GGUF models, a\.gguf, b\.gguf; name the"):
        Checkpoint.open(folder)


def test_file_of_another_kind_is_refused(tiny_checkpoint: Write) -> None:
    message = "a file, expected a checkpoint's folder or a GGUF file; of files such as model.safe"
    with pytest.raises(ConfigError, match=message):
        Checkpoint.open(tiny_checkpoint() / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 3}, r"layers\.2\..* is missing \(9 missing in all\), .*params\.json"),
        ({"n_layers": 1}, r"layers\.1\..* is unexpected \(9 such in all\)"),
        ({"n_kv_heads": 4}, r"wk\.weight has shape \(32, 64\), params\.json implies \(64, 64\)"),
        ({"tied_embeddings": True}, r"output\.weight differs from tok_embeddings\.weight"),
    ],
)
def test_mistral_tensor_that_params_json_does_not_imply_is_refused(
    tiny_checkpoint: Write, as_mistral: Write, changes: dict[str, Any], message: str
) -> None:
    folder = as_mistral(tiny_checkpoint(), **changes)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


def test_mistral_layout_in_shards_reads_as_in_one_file(
    tiny_checkpoint: Write, as_mistral: Write
) -> None:
    from safetensors.torch import load_file, save_file

    published = tiny_checkpoint()
    folder = as_mistral(published)
    whole = load_file(folder / "consolidated.safetensors")
    weight_map = {name: f"consolidated-{len(name) % 2}.safetensors" for name in whole}
    for shard in set(weight_map.values()):
        held = {name: whole[name] for name in whole if weight_map[name] == shard}
        save_file(held, folder / shard)
    (folder / "consolidated.safetensors").unlink()
    index = folder / "consolidated.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = Checkpoint.open(folder)
    assert_equal(checkpoint, Checkpoint.open(published))
    assert index in checkpoint.files
