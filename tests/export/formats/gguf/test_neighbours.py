"""Are GGUF files of Qwen2, Qwen3 and SmolLM3 read as transformers and llama.cpp read them?"""

from __future__ import annotations

import json
import sys
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
from tramontane.environments import folders
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.gguf.file import read_gguf
from tramontane.export.write_gguf import write_gguf
from tramontane.runtime.errors import CheckpointError, ConfigError
from tramontane.validate.figures import compare

Write = Callable[..., Path]
LENGTH = 40
ENDS = {"bos_token_id": 1, "eos_token_id": 2}  # of the tokenizer
KINDS: dict[str, dict[str, Any]] = {
    "Qwen2ForCausalLM": ENDS,
    "Qwen3ForCausalLM": ENDS,
    # The fourth layer has no rope.
    "SmolLM3ForCausalLM": {**ENDS, "num_hidden_layers": 5, "pad_token_id": 0},
}
# It reads no size of heads: a Qwen2's is hidden_size over heads, a Qwen3's 128.
OF_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 128},
}
# Of the user's cache: tests have one of their own, in which it would be built again.
LLAMA_CPP = folders.home() / "llama-cpp"
IS_BUILT = folders.is_ready(LLAMA_CPP, (sys.version, (llama_runtime.PACKAGES,)))
needs_llama_cpp = pytest.mark.skipif(not IS_BUILT, reason="llama.cpp is not built; make gguf does")


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tiny_checkpoint: Write) -> Path:
    return tiny_checkpoint(request.param, rms_norm_eps=1e-5, **KINDS[request.param])


def logits(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model.eval()(torch.from_numpy(ids)[None]).logits[0].numpy())


@pytest.mark.situation("GGUF file of Qwen2, Qwen3 or SmolLM3", package="gguf")
def test_config_and_weights_are_those_of_the_folder(source: Path, as_gguf: Write) -> None:
    with Checkpoint.open(source) as folder, Checkpoint.open(as_gguf(source)) as file:
        assert file.config == folder.config
        assert file.parameters == folder.parameters
        for name in folder.parameters:
            np.testing.assert_array_equal(file.read(name), folder.read(name), err_msg=name)


@pytest.mark.parametrize("kind", OF_TRANSFORMERS)
def test_transformers_reads_the_file_as_the_folder(
    tiny_checkpoint: Write, as_gguf: Write, kind: str
) -> None:
    """So what the fixture writes is what others read; it has no reader of SmolLM3's files."""
    source = tiny_checkpoint(kind, rms_norm_eps=1e-5, **OF_TRANSFORMERS[kind])
    path = as_gguf(source)
    ids = np.random.default_rng(0).integers(3, 2048, LENGTH)
    load = transformers.AutoModelForCausalLM.from_pretrained
    found = logits(load(path.parent, gguf_file=path.name, dtype=torch.float32), ids)
    np.testing.assert_allclose(found, logits(load(source), ids), atol=1e-4)


@needs_llama_cpp
def test_llama_cpp_computes_what_transformers_does(
    source: Path, as_gguf: Write, tmp_path: Path
) -> None:
    """On the fixture's file and on ours, in float32; its cache has 16 bits."""
    ids = np.random.default_rng(0).integers(3, 2048, LENGTH)
    expected = logits(transformers.AutoModelForCausalLM.from_pretrained(source), ids)
    with Checkpoint.open(source) as checkpoint:
        write_gguf(checkpoint, tmp_path / "ours.gguf")
    for path in (as_gguf(source), tmp_path / "ours.gguf"):
        job = {"model": str(path), "score": ids.tolist(), "logits": str(tmp_path / "logits")}
        runner = Path(llama_runtime.__file__).with_name("llama_speed.py")
        command = (LLAMA_CPP / "bin" / "python", runner)
        llama_runtime.ask(command, {**job, "threads": 1, "chunk": LENGTH}, tmp_path)
        found = np.fromfile(tmp_path / "logits", "<f4").reshape(expected.shape)
        assert compare(expected, found, ids).mean_kl <= KL_BOUND


def test_what_is_written_is_read_again(source: Path, tmp_path: Path) -> None:
    with Checkpoint.open(source) as folder:
        write_gguf(folder, tmp_path / "a.gguf")
        with Checkpoint.open(tmp_path / "a.gguf") as file:
            assert file.config == folder.config
            for name in folder.parameters:
                np.testing.assert_array_equal(file.read(name), folder.read(name), err_msg=name)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("MinistralForCausalLM", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("Qwen2ForCausalLM", {"use_sliding_window": True, "max_window_layers": 0}),
        ("SmolLM3ForCausalLM", {**KINDS["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0, 1, 1, 1]}),
    ],
)
def test_model_that_llama_cpp_computes_otherwise_is_not_written(
    tiny_checkpoint: Write, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    source = tiny_checkpoint(kind, **{"sliding_window": 8, **changes})
    with (
        Checkpoint.open(source) as checkpoint,
        pytest.raises(CheckpointError, match=f"{kind} with its windows and its layers without"),
    ):
        write_gguf(checkpoint, tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"qwen2.attention.sliding_window": 8}, {}, r"sliding_window is 8, expected no such key"),
        (
            {},
            {"rope_freqs.weight": np.ones(8, np.float32)},
            r"rope_freqs\.weight divides .*expected none of architecture 'qwen2'",
        ),
    ],
)
def test_part_that_llama_cpp_does_not_read_is_refused(
    tiny_checkpoint: Write,
    as_gguf: Write,
    metadata: dict[str, Any],
    tensors: dict[str, np.ndarray],
    message: str,
) -> None:
    path = as_gguf(tiny_checkpoint("Qwen2ForCausalLM"), metadata=metadata, tensors=tensors)
    with pytest.raises(ConfigError, match=message):
        Checkpoint.open(path)


def test_missing_biases_are_named(tiny_checkpoint: Write, as_gguf: Write) -> None:
    path = as_gguf(tiny_checkpoint("Qwen2ForCausalLM"), tensors={"blk.1.attn_k.bias": None})
    with pytest.raises(CheckpointError, match=r"blk\.1\.attn_k\.bias is missing"):
        Checkpoint.open(path)


def test_names_of_tensors_are_those_of_the_package(source: Path, tmp_path: Path) -> None:
    with Checkpoint.open(source) as checkpoint:
        write_gguf(checkpoint, tmp_path / "a.gguf")
    found = read_gguf(tmp_path / "a.gguf")
    kind = json.loads((source / "config.json").read_bytes())["model_type"]
    number = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[kind]
    known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[number]}
    stems = {name.rpartition(".")[0] for name in found.tensors}
    assert {
        stem if "blk" not in stem else f"blk.{{bid}}.{stem.split('.')[2]}" for stem in stems
    } <= known
