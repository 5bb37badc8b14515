"""Is what is made up a checkpoint like a published one: complete, readable, and alive?"""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from safetensors import safe_open
from tramontane.cli import main as cli
from tramontane.console import status
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.mistral import read_params_json, to_params_json
from tramontane.export.known_models import GEOMETRIES
from tramontane.export.synthesize import random_weights
from tramontane.export.synthesize import synthesize as module
from tramontane.export.synthesize.random_weights import RandomTensor
from tramontane.export.synthesize.synthesize import synthesize
from tramontane.runtime.errors import ConfigError

SMALL = "stdlib-5m"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_all(folder: Path) -> dict[str, Any]:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.read(name) for name in checkpoint.parameters}


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert list(a) == list(b)
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], err_msg=name)


@pytest.fixture
def many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the small geometry's tensors, as a large one's are."""
    monkeypatch.setattr(random_weights, "_SLICE_ELEMENTS", 1 << 14)


@pytest.mark.parametrize("layout", ["huggingface", "mistral"])
def test_a_checkpoint_is_complete_and_counted(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "out"
    written = synthesize(SMALL, out, layout=layout)
    config = GEOMETRIES[SMALL]
    if layout == "mistral":  # its params.json has no words for these
        config = dataclasses.replace(config, bos_token_id=None, eos_token_ids=())
    assert Checkpoint.open(out).config == config
    assert written.num_parameters == config.num_parameters
    assert written.num_bytes == sum(len(content) for content in contents(out).values())
    assert written.num_files == len(contents(out)) == 3
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    assert tokenizer.vocab_size() == config.vocab_size


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["huggingface", "mistral"])
def test_a_model_whose_head_is_its_embedding_has_no_tensor_of_it(
    tmp_path: Path, layout: str
) -> None:
    written = synthesize("smollm2-135m", tmp_path / "out", layout=layout, layers=1)
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert checkpoint.config.tie_word_embeddings
    assert written.num_parameters == checkpoint.config.num_parameters
    with safe_open(next((tmp_path / "out").glob("*.safetensors")), "numpy") as file:
        assert not {"lm_head.weight", "output.weight"} & set(file.keys())
    np.testing.assert_array_equal(
        checkpoint.read("head.weight"), checkpoint.read("embedding.weight")
    )


@pytest.mark.usefixtures("many_slices")
def test_both_layouts_are_the_same_model_bit_for_bit(tmp_path: Path) -> None:
    synthesize(SMALL, tmp_path / "a", layout="huggingface")
    synthesize(SMALL, tmp_path / "b", layout="mistral")
    assert_equal(read_all(tmp_path / "a"), read_all(tmp_path / "b"))
    with (
        safe_open(tmp_path / "a" / "model.safetensors", framework="pt") as halves,
        safe_open(tmp_path / "b" / "consolidated.safetensors", framework="pt") as pairs,
    ):
        published = halves.get_tensor("model.layers.0.self_attn.q_proj.weight")
        permuted = pairs.get_tensor("layers.0.attention.wq.weight")
    D = GEOMETRIES[SMALL].head_dim
    for head in (0, 3):  # rows i and i + D / 2 become neighbours
        assert torch.equal(permuted[head * D : head * D + 2], published[head * D :: D // 2][:2])


@pytest.mark.usefixtures("many_slices")
def test_equal_options_give_equal_bytes_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (1, 5):
        monkeypatch.setattr(module, "_num_threads", lambda n=threads: n)
        synthesize(SMALL, tmp_path / str(threads))
    assert contents(tmp_path / "1") == contents(tmp_path / "5")
    synthesize(SMALL, tmp_path / "other", seed=1)
    ours, others = contents(tmp_path / "1"), contents(tmp_path / "other")
    assert {name for name in ours if ours[name] != others[name]} == {"model.safetensors"}


def test_shards_hold_the_same_numbers_and_keep_to_their_size(tmp_path: Path) -> None:
    synthesize(SMALL, tmp_path / "one")
    synthesize(SMALL, tmp_path / "cut", max_shard_bytes=2_500_000)
    shards = sorted((tmp_path / "cut").glob("*.safetensors"))
    assert [path.name for path in shards] == [
        f"model-{i:05}-of-00005.safetensors" for i in range(1, 6)
    ]
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * GEOMETRIES[SMALL].num_parameters
    header_bytes = 8192
    assert all(path.stat().st_size <= 2_500_000 + header_bytes for path in shards)
    assert_equal(read_all(tmp_path / "one"), read_all(tmp_path / "cut"))


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path: Path) -> None:
    synthesize(SMALL, tmp_path / "out", layers=1, max_shard_bytes=1000)
    shards = list((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) == 12
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"].values()) == sorted(path.name for path in shards)
    assert len(read_all(tmp_path / "out")) == 12


def test_fewer_layers_are_the_first_of_all(tmp_path: Path) -> None:
    synthesize(SMALL, tmp_path / "whole")
    synthesize(SMALL, tmp_path / "short", layers=2)
    whole, short = read_all(tmp_path / "whole"), read_all(tmp_path / "short")
    assert {name for name in whole if name not in short} == {
        name for name in whole if name.startswith(tuple(f"layers.{i}." for i in range(2, 6)))
    }
    assert_equal(short, {name: whole[name] for name in short})


def test_narrow_types_are_the_wide_one_rounded_to_nearest_even(tmp_path: Path) -> None:
    tensors = {}
    for dtype in ("float32", "bfloat16", "float16"):
        synthesize(SMALL, tmp_path / dtype, layers=1, dtype=dtype)
        with safe_open(tmp_path / dtype / "model.safetensors", framework="pt") as file:
            tensors[dtype] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for dtype in ("bfloat16", "float16"):
        for name, wide in tensors["float32"].items():
            assert torch.equal(wide.to(getattr(torch, dtype)), tensors[dtype][name]), name


@pytest.mark.usefixtures("many_slices")
def test_memory_holds_some_slices_and_no_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_num_threads", lambda: 2)
    synthesize(SMALL, tmp_path / "first")  # what is imported, or made once, is not counted
    tracemalloc.start()
    try:
        synthesize(SMALL, tmp_path / "second", dtype="float32")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    embedding_bytes = 2048 * 256 * 4
    assert peak_bytes < embedding_bytes / 2


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "seed"), [("bfloat16", 0), ("float32", 1)])
def test_logits_neither_explode_nor_vanish_and_some_channels_stand_out(
    tmp_path: Path, dtype: str, seed: int
) -> None:
    synthesize(SMALL, tmp_path / "out", dtype=dtype, seed=seed, max_shard_bytes=2_500_000)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values())
    ids = torch.randint(3, 2048, (1, 192), generator=torch.Generator().manual_seed(0))
    output = model(ids, output_hidden_states=True)
    assert output.logits.isfinite().all()
    assert 1 < output.logits.std() < 6
    is_favourite = output.logits[0].argmax(-1) == ids[0] + 1
    assert 0.3 < is_favourite.float().mean() < 0.95  # the context decides the others
    for hidden in output.hidden_states:
        rms = hidden[0].pow(2).mean(0).sqrt()
        assert rms.max() > 3 * rms.median()
        centered = hidden - hidden.mean()
        kurtosis = centered.pow(4).mean() / centered.pow(2).mean() ** 2
        assert kurtosis > 5  # 3 is that of a normal distribution


HAVE_NO_PARAMS_JSON = ("llama-3.2-", "smollm3-", "qwen3-")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_params_json_says_what_the_geometry_is(tmp_path: Path, name: str) -> None:
    config = GEOMETRIES[name]
    if name.startswith(HAVE_NO_PARAMS_JSON):
        with pytest.raises(ConfigError, match=r"^params.json: .*; write Hugging Face's layout"):
            synthesize(name, tmp_path / "out", layout="mistral")
        assert not (tmp_path / "out").exists()
        return
    (tmp_path / "params.json").write_text(json.dumps(to_params_json(config)))
    scaling = dict(config.rope_scaling)
    if scaling.pop("mscale", None) == scaling.pop("mscale_all_dim", None) != None:  # noqa: E711
        scaling["attention_factor"] = 1.0  # their ratio
    config = dataclasses.replace(config, rope_scaling=scaling)
    is_scaled = "llama_4_scaling_beta" in scaling  # of queries
    architecture = "Ministral3ForCausalLM" if is_scaled else "MistralForCausalLM"
    assert read_params_json(tmp_path) == dataclasses.replace(
        config, architecture=architecture, bos_token_id=None, eos_token_ids=()
    )


def test_params_json_of_the_first_version_has_a_window_and_of_the_others_a_rope_base() -> None:
    first, third = (to_params_json(GEOMETRIES[f"mistral-7b-v0.{i}"]) for i in (1, 3))
    shared = {
        "dim": 4096,
        "n_layers": 32,
        "head_dim": 128,
        "hidden_dim": 14336,
        "n_heads": 32,
        "n_kv_heads": 8,
        "norm_eps": 1e-5,
    }
    assert first == {**shared, "vocab_size": 32000, "sliding_window": 4096}
    assert third == {**shared, "vocab_size": 32768, "rope_theta": 1e6}
    assert to_params_json(GEOMETRIES["llama-2-7b"])["rope_theta"] == 1e4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 7}, "--layers 7: expected 1 to 6, the layers that"),
        ({"layout": "gguf"}, "--layout gguf: expected huggingface or mistral"),
        ({"dtype": "int8"}, "--dtype int8: expected one of bfloat16, float16, float32"),
        (
            {"layout": "mistral", "max_shard_bytes": 10},
            "--max-shard 10: Mistral's layout is one file, expected none; leave it out",
        ),
    ],
)
def test_an_option_that_cannot_be_met_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        synthesize(SMALL, tmp_path / "out", **options)
    assert str(refusal.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_says_so_and_leaves_nothing_when_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = ["synthesize", SMALL, str(out), "--layers", "1", "--max-shard", "2.5MB"]
    assert cli.main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    size = sum(len(content) for content in contents(out).values())
    parameters = dataclasses.replace(GEOMETRIES[SMALL], num_hidden_layers=1).num_parameters
    assert told == {"checkpoint": str(out), "parameters": parameters, "files": 5, "bytes": size}
    assert cli.main(arguments) == status.EXIT_BAD_INPUT
    assert f"{out}: holds a checkpoint already" in capsys.readouterr().err

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RandomTensor, "compute", interrupt)
    other = tmp_path / "other"
    assert cli.main(["synthesize", SMALL, str(other)]) == status.EXIT_INTERRUPTED
    assert list(tmp_path.iterdir()) == [out]


def test_the_command_tells_people_where_and_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["synthesize", SMALL, str(out), "--layout", "mistral"]) == 0
    told = capsys.readouterr().out
    assert f"wrote {out}" in told
    assert "5573888" in told
    assert "11.20 MB" in told
