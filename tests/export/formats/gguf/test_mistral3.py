"""Are GGUF files of architecture ``mistral3`` read as llama.cpp computes them: Ministral 3, Devstral 2, Mistral Small 3?"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tramontane.bench.peers import llama_runtime
from tramontane.bench.peers.gguf_types import KL_BOUND
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.gguf.file import read_gguf
from tramontane.export.formats.layouts import read_config
from tramontane.export.model.load import load_reference
from tramontane.runtime.errors import ConfigError
from tramontane.validate.figures import compare

from ....support.ropes import YARN
from .test_neighbours import LLAMA_CPP, needs_llama_cpp

Write = Callable[..., Path]
LENGTH, BOUND = 60, 1e-4  # tokens past the original length, largest |difference| of two logits
ENDS = {"bos_token_id": 1, "eos_token_id": 2}  # of the tokenizer
DEVSTRAL_2 = {**YARN, "factor": 48.0, "beta_fast": 4.0, "mscale_all_dim": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "Ministral 3": {"rope_parameters": YARN},
    "Ministral 3, tied": {"rope_parameters": YARN, "tie": True},
    "Devstral 2, scaled queries": {"rope_parameters": DEVSTRAL_2},
    "Devstral 2": {"rope_parameters": {**DEVSTRAL_2, "llama_4_scaling_beta": 0.0}},
    # Of its text model alone config.json says that it is a Mistral; the file has mistral3's name.
    "Mistral Small 3": {"architecture": "MistralForCausalLM", "sliding_window": None},
}


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tiny_checkpoint: Write) -> Path:
    kind = {"architecture": "Ministral3ForCausalLM", **KINDS[request.param]}
    return tiny_checkpoint(**kind, **ENDS, rms_norm_eps=1e-5)


@pytest.fixture
def write(as_gguf: Write, tmp_path: Path) -> Write:
    """Write a folder as a file of architecture mistral3."""

    def written(source: Path, **options: Any) -> Path:
        copy = tmp_path / "source"
        shutil.copytree(source, copy)
        config = json.loads((copy / "config.json").read_bytes())
        (copy / "config.json").write_text(json.dumps({**config, "model_type": "ministral3"}))
        return as_gguf(copy, **options)

    return written


def published_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        return np.asarray(model.eval()(torch.from_numpy(ids)[None]).logits[0].numpy())


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 2048, LENGTH)


@pytest.mark.situation("GGUF file of Ministral 3, Devstral 2 or Mistral Small 3", package="gguf")
def test_config_and_weights_are_those_of_the_folder(source: Path, write: Write) -> None:
    with Checkpoint.open(source) as folder, Checkpoint.open(write(source)) as file:
        scales = folder.config.query_scale is not None
        named = "Ministral3ForCausalLM" if scales else "MistralForCausalLM"
        assert file.config.architecture == named
        assert read_gguf(file.path).metadata["general.architecture"] == "mistral3"
        same = dataclasses.replace(file.config, architecture=folder.config.architecture)
        assert same == folder.config
        assert file.parameters == folder.parameters
        for name in folder.parameters:
            np.testing.assert_array_equal(file.read(name), folder.read(name), err_msg=name)


def test_logits_past_the_original_length_are_those_of_transformers(
    source: Path, write: Write
) -> None:
    ids = tokens()
    with Checkpoint.open(write(source)) as file:
        model = load_reference(file.config, file)
        found, _ = model(
            torch.from_numpy(ids)[None],
            torch.ones(1, LENGTH, dtype=torch.int64),
            model.empty_cache(1),
        )
    expected = published_logits(source, ids)
    assert np.abs(found[0].detach().numpy() - expected).max() <= BOUND


@needs_llama_cpp
def test_llama_cpp_computes_what_transformers_does(
    source: Path, write: Write, tmp_path: Path
) -> None:
    """In float32; its cache has 16 bits."""
    ids = tokens()
    path = write(source)
    job = {"model": str(path), "score": ids.tolist(), "logits": str(tmp_path / "logits")}
    runner = Path(llama_runtime.__file__).with_name("llama_speed.py")
    command = (LLAMA_CPP / "bin" / "python", runner)
    llama_runtime.ask(command, {**job, "threads": 1, "chunk": LENGTH}, tmp_path)
    expected = published_logits(source, ids)
    found = np.fromfile(tmp_path / "logits", "<f4").reshape(expected.shape)
    assert compare(expected, found, ids).mean_kl <= KL_BOUND


@pytest.mark.parametrize("length", [0, 12])
def test_length_of_the_query_scale_may_repeat_that_of_rope(
    tiny_checkpoint: Write, write: Write, length: int
) -> None:
    source = tiny_checkpoint("Ministral3ForCausalLM", **KINDS["Ministral 3"], **ENDS)
    keys = {gguf.Keys.Attention.TEMPERATURE_LENGTH.format(arch="mistral3"): length}
    assert read_config(write(source, metadata=keys)) == read_config(source)


def test_queries_are_scaled_from_the_whole_length_where_no_original_one_is_given(
    tiny_checkpoint: Write, write: Write
) -> None:
    plain = {"rope_type": "default", "rope_theta": 1e4}
    source = tiny_checkpoint("Ministral3ForCausalLM", rope_parameters=plain, **ENDS)
    keys = {gguf.Keys.Attention.TEMPERATURE_SCALE.format(arch="mistral3"): 0.1}
    found = read_config(write(source, metadata=keys))
    assert (found.query_scale, found.architecture) == ((0.1, 256), "Ministral3ForCausalLM")


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        (
            {"attention.temperature_length": 8192},
            {},
            r"temperature_length is 8192, expected 12, rope's original length, or no such key",
        ),
        ({"attention.temperature_scale": -0.1}, {}, r"beta is -0\.1; expected at least 0"),
        ({"attention.sliding_window": 8}, {}, r"sliding_window is 8, expected no such key"),
        ({"expert_count": 8}, {}, r"mistral3\.expert_count 8 \(Mixtral\) is not supported"),
        (
            {},
            {"rope_freqs.weight": np.ones(8, np.float32)},
            r"rope_freqs\.weight divides .*expected none of architecture 'mistral3'",
        ),
    ],
)
def test_what_would_change_the_model_is_refused(
    tiny_checkpoint: Write,
    write: Write,
    metadata: dict[str, Any],
    tensors: dict[str, np.ndarray],
    message: str,
) -> None:
    source = tiny_checkpoint("Ministral3ForCausalLM", **KINDS["Ministral 3"], **ENDS)
    keys = {f"mistral3.{name}": value for name, value in metadata.items()}
    with pytest.raises(ConfigError, match=message):
        Checkpoint.open(write(source, metadata=keys, tensors=tensors))


def test_query_scale_is_no_key_of_a_llama(tiny_checkpoint: Write, as_gguf: Write) -> None:
    """llama.cpp reads it for mistral3 alone."""
    path = as_gguf(tiny_checkpoint(), metadata={"llama.attention.temperature_scale": 0.1})
    with pytest.raises(ConfigError, match=r"temperature_scale is 0\.1\d*, expected no such key"):
        read_config(path)
