"""Fixtures for all tests: checkpoints in every layout, artifacts and a clone of the repository."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch read it; see ``one_thread``

import numpy as np
import pytest
import tramontane

from .support.clone import Clone
from .support.once import (
    Once,
    all_cores,
    exports_in_one_process,
    kept_by_commands,
    once,
    one_thread,
    own_cache,
    traces_anew,
)

__all__ = [
    "all_cores",
    "exports_in_one_process",
    "kept_by_commands",
    "once",
    "one_thread",
    "own_cache",
    "traces_anew",
]

ROOT = Path(tramontane.__file__).parent  # imported before onnxruntime is: no telemetry

gc.set_threshold(50_000, 20, 20)  # tracing makes millions of objects and hardly any cycles

for name in ("TRAMONTANE_CALLED_FROM", "TRAMONTANE_OPTIONS"):
    os.environ.pop(name, None)  # of ``make test``: messages would be those of its folder


@pytest.fixture(scope="session")
def embedded_artifact(
    artifact_of: Callable[[Path, str], Path], stdlib_5m: Path
) -> Callable[[str], Path]:
    """Artifacts of the bundled demo model by recipe, e.g. ``int8-ort`` or ``int8-ort-int8``, not proved; each made once."""
    return lambda recipe: artifact_of(stdlib_5m, recipe)


@pytest.fixture(scope="session")
def six_layers(once: Once, tiny_checkpoint: Callable[..., Path]) -> Path:
    """A random checkpoint that every fault can be planted in: six layers, rows of two blocks, a window of 64."""
    sizes = {
        "num_hidden_layers": 6,
        "hidden_size": 256,
        "intermediate_size": 256,
        "sliding_window": 64,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.07,
    }
    return once("six-layers", lambda out: tiny_checkpoint(**sizes).rename(out))


@pytest.fixture(scope="session")
def two_layers(once: Once, tiny_checkpoint: Callable[..., Path]) -> Path:
    """The smallest random checkpoint with a window, of 8: for tests that need no trained model."""
    return once("two-layers", lambda out: tiny_checkpoint().rename(out))


@pytest.fixture(scope="session")
def artifact_of(once: Once) -> Callable[[Path, str], Path]:
    """Artifacts of a checkpoint of one of these fixtures by recipe, not proved; each made once."""
    from tramontane.export.build import (
        export_checkpoint,
    )
    from tramontane.export.options import (
        options_named,
    )

    def artifact(checkpoint: Path, recipe: str) -> Path:
        return once(
            f"{checkpoint.name}-{recipe}",
            lambda out: export_checkpoint(checkpoint, out, options_named(recipe)),
        )

    return artifact


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone whose commands are stubs, in a folder whose name has a space and an apostrophe."""
    return Clone(tmp_path / "it's a clone")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Models and corpora that lie beside the repository; see its MANIFEST.md."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; it holds the trained models this test reads")
    return folder


@pytest.fixture(scope="session")
def stdlib_5m() -> Path:
    """The trained model in the repository: window 64, bfloat16, untied."""
    return ROOT / "models" / "stdlib-5m"


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, stdlib_5m: Path
) -> Callable[..., Path]:
    """Write a random, seeded checkpoint folder as transformers does.

    Options: ``architecture``, ``tie``, ``max_shard_size`` and ``dtype`` (a name of torch's);
    further keywords go to the config. The vocabulary is that of ``stdlib_5m``'s tokenizer.
    Equal options give equal numbers, however they are cut into shards.
    """
    import torch
    import transformers

    def write(
        architecture: str = "MistralForCausalLM",
        *,
        tie: bool = False,
        max_shard_size: str = "5GB",
        dtype: str = "float32",
        **overrides: Any,
    ) -> Path:
        family = architecture.removesuffix("ForCausalLM")
        sizes = {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 2048,
            "max_position_embeddings": 256,
            "tie_word_embeddings": tie,
            "initializer_range": 0.15,  # large enough for attention to choose between keys
            **({"sliding_window": 8} if family == "Mistral" else {}),
        }
        config = getattr(transformers, f"{family}Config")(**{**sizes, **overrides})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(transformers, architecture)(config)
            for name, parameter in model.named_parameters():
                if "norm" in name:  # they start as ones, which would hide a missing scale
                    torch.nn.init.uniform_(parameter, 0.5, 1.5)
                elif name.endswith("bias"):  # and these as zeros
                    torch.nn.init.uniform_(parameter, -0.5, 0.5)
        folder = tmp_path_factory.mktemp("checkpoint")
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
        shutil.copy(stdlib_5m / "tokenizer.model", folder)
        return folder

    return write


# Mistral's name by Hugging Face's. Source: transformers, convert_mistral_weights_to_hf.py, whose
# table goes the other way, as does its permutation.
_MISTRAL_NAMES = {
    r"lm_head": "output",
    r"model\.norm": "norm",
    r"model\.embed_tokens": "tok_embeddings",
    r"model\.layers\.(\d+)\.input_layernorm": r"layers.\1.attention_norm",
    r"model\.layers\.(\d+)\.post_attention_layernorm": r"layers.\1.ffn_norm",
    r"model\.layers\.(\d+)\.self_attn\.(\w)_proj": r"layers.\1.attention.w\2",
    r"model\.layers\.(\d+)\.mlp\.gate_proj": r"layers.\1.feed_forward.w1",
    r"model\.layers\.(\d+)\.mlp\.down_proj": r"layers.\1.feed_forward.w2",
    r"model\.layers\.(\d+)\.mlp\.up_proj": r"layers.\1.feed_forward.w3",
}


def to_pairs(weight: Any, heads: int) -> Any:
    """Undo transformers' ``permute_for_rope``, row by row of each head."""
    rows, columns = weight.shape
    weight = weight.reshape(heads, 2, rows // heads // 2, columns)
    return weight.swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture
def as_mistral(tmp_path: Path) -> Callable[..., Path]:
    """Write the weights of a Hugging Face folder again in Mistral's own layout.

    Keywords change params.json; None leaves a key out.
    """
    from safetensors.torch import load_file, save_file

    def write(source: Path, **changes: Any) -> Path:
        config = json.loads((source / "config.json").read_bytes())
        heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
        tensors = {}
        for name, tensor in load_file(source / "model.safetensors").items():
            if turned := re.search(r"\.([qk])_proj", name):
                tensor = to_pairs(tensor, heads[turned[1]]).contiguous()  # noqa: PLW2901
            for pattern, replacement in _MISTRAL_NAMES.items():
                name = re.sub(f"^{pattern}\\.weight$", f"{replacement}.weight", name)  # noqa: PLW2901
            tensors[name] = tensor
        params = {
            "dim": config["hidden_size"],
            "n_layers": config["num_hidden_layers"],
            "head_dim": config["head_dim"],
            "hidden_dim": config["intermediate_size"],
            "n_heads": heads["q"],
            "n_kv_heads": heads["k"],
            "norm_eps": config["rms_norm_eps"],
            "sliding_window": config.get("sliding_window"),
            "vocab_size": config["vocab_size"],
            "max_seq_len": config["max_position_embeddings"],
            "tied_embeddings": config["tie_word_embeddings"],
            **changes,
        }
        params = {name: value for name, value in params.items() if value is not None}
        folder = tmp_path / "mistral"
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / "consolidated.safetensors")
        (folder / "params.json").write_text(json.dumps(params))
        shutil.copy(source / "tokenizer.model", folder)
        return folder

    return write


@pytest.fixture
def as_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Write a Hugging Face folder again as one GGUF file, as llama.cpp's converter does.

    Keys of metadata begin with the architecture's name, ``llama`` for Llama and Mistral alike.
    Options: ``kind``, the type of matrices, and ``kinds`` of some by name; ``tensors`` and
    ``metadata`` change or, by None, leave out what is written. Bytes are taken as they are.
    ``split`` cuts the file into parts of so many tensors and returns the first.
    """
    import gguf
    from safetensors.torch import load_file

    def write(
        source: Path,
        *,
        kind: str = "F32",
        kinds: dict[str, str] | None = None,
        name: str = "model.gguf",
        metadata: dict[str, Any] | None = None,
        tensors: dict[str, np.ndarray | None] | None = None,
        split: int = 0,
    ) -> Path:
        config = json.loads((source / "config.json").read_bytes())
        heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
        kind_of_model = _GGUF_NAMES.get(config["model_type"], config["model_type"])
        number = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[kind_of_model]
        names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
        is_paired = not kind_of_model.startswith("qwen")
        held = {}
        for published, tensor in load_file(source / "model.safetensors").items():
            weight = tensor.float().numpy()
            if is_paired and (turned := re.search(r"\.([qk])_proj", published)):
                weight = to_pairs(weight, heads[turned[1]])
            own, _, ending = published.rpartition(".")
            held[f"{names.get_name(own)}.{ending}"] = weight
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, kind_of_model, split_max_tensors=split)
        described = {
            key.replace("llama.", f"{kind_of_model}.", 1) if key.startswith("llama.") else key: own
            for key, own in _gguf_metadata(config, source).items()
        }
        for key, value in {**described, **(metadata or {})}.items():
            _add(writer, key, value)
        for theirs, weight in {**held, **(tensors or {})}.items():
            if weight is None:
                continue
            stored = (kinds or {}).get(theirs, kind if weight.ndim > 1 else "F32")
            dtype, data = gguf.GGMLQuantizationType[stored], np.ascontiguousarray(weight)
            if data.dtype == np.float32:
                data = gguf.quantize(data, dtype)
            writer.add_tensor(theirs, data, raw_dtype=dtype if data.dtype == np.uint8 else None)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if split else path

    return write


# By ``model_type``; others are their own.
_GGUF_NAMES = {"mistral": "llama", "ministral3": "mistral3"}


def _gguf_metadata(config: dict[str, Any], source: Path) -> dict[str, Any]:
    """Keys of ggml's docs/gguf.md, as llama.cpp's converter fills them."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    kinds = (
        (pieces.IsUnknown, 2),
        (pieces.IsControl, 3),
        (pieces.IsUnused, 5),
        (pieces.IsByte, 6),
    )
    ids = range(pieces.vocab_size())
    theta = (config.get("rope_parameters") or config).get("rope_theta", 10000.0)
    return {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.key_length": config["head_dim"],
        "llama.attention.value_length": config["head_dim"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.attention.sliding_window": config.get("sliding_window"),
        "llama.rope.dimension_count": config["head_dim"],
        "llama.rope.freq_base": theta,
        **_gguf_yarn(config),
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.IdToPiece(i) for i in ids],
        "tokenizer.ggml.scores": [pieces.GetScore(i) for i in ids],
        "tokenizer.ggml.token_type": [
            next((kind for holds, kind in kinds if holds(i)), 1) for i in ids
        ],
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
    }


def _gguf_yarn(config: dict[str, Any]) -> dict[str, Any]:
    """Keys of yarn and of a Ministral 3's queries; empty for other ropes, whose tests add theirs.

    Source: llama.cpp 0c1e57098, conversion/base.py and conversion/mistral3.py.
    """
    import gguf

    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") != "yarn":
        return {}
    keys = gguf.Keys.Rope
    found = {
        keys.SCALING_TYPE: "yarn",
        keys.SCALING_FACTOR: rope["factor"],
        keys.SCALING_ORIG_CTX_LEN: rope["original_max_position_embeddings"],
        keys.SCALING_YARN_BETA_FAST: rope.get("beta_fast"),
        keys.SCALING_YARN_BETA_SLOW: rope.get("beta_slow"),
    }
    if config["model_type"] == "ministral3":
        found[keys.SCALING_YARN_LOG_MUL] = rope["mscale_all_dim"]
        found[gguf.Keys.Attention.TEMPERATURE_SCALE] = rope["llama_4_scaling_beta"]
    return {key.format(arch="llama"): value for key, value in found.items()}


def _add(writer: Any, key: str, value: Any) -> None:
    if value is None:
        return
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)
