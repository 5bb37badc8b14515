"""Is a GGUF file's metadata read as llama.cpp reads it, or refused by name?"""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import transformers
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import read_config
from tramontane.runtime.errors import ConfigError
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

Write = Callable[..., Path]


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


@pytest.mark.situation("GGUF keys at values that change nothing", package="gguf")
@pytest.mark.parametrize(
    "nothing",
    [
        {"llama.attention.sliding_window": 0},
        {"llama.expert_count": 0, "llama.expert_used_count": 0},
        {"llama.rope.scaling.type": "none"},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.type": "linear"},  # llama.cpp: no factor is 1
        {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},  # not applied
        {"llama.rope.scaling.attn_factor": 1.0, "llama.rope.scaling.finetuned": True},
        {"llama.rope.scaling.yarn_log_multiplier": 0.5},  # only yarn reads it
        {"llama.rope.scaling.yarn_beta_fast": 32.0, "llama.rope.scaling.yarn_ext_factor": -1.0},
        {"llama.rope.scaling.original_context_length": 128, "llama.rope.scale_linear": 0.0},
        {"llama.attention.scale": 1 / math.sqrt(16)},
        {"llama.attention.scale": 0.0, "llama.logit_scale": 1.0, "llama.embedding_scale": 1.0},
        {"llama.feed_forward_length": [128, 128], "llama.attention.head_count_kv": [2, 2]},
        {"llama.hidden_activation": "silu", "llama.use_parallel_residual": False},
        {"llama.attention.key_length_swa": 16, "llama.pooling_type": 2**32 - 1},
        {"llama.any": 0, "llama.any.other": False, "llama.layers": [0, 0], "llama.text": ""},
        {"llama.expert_group_count": 0, "llama.deepstack_mapping": [-1, -1]},
        {"general.name": "any", "quantize.imatrix.file": "any", "mistral.any": 1},
    ],
    ids=str,
)
def test_metadata_that_says_nothing_is_no_matter(
    tiny_checkpoint: Write, as_gguf: Write, nothing: dict[str, Any]
) -> None:
    source = tiny_checkpoint("LlamaForCausalLM")
    assert read_config(as_gguf(source, metadata=nothing)) == read_config(source)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.scaling.type": "longrope"}, r"'longrope'; expected one of none, linear, y"),
        ({"llama.rope.scaling.type": "yarn"}, "factor is 1, as it is where the key is missing"),
        ({"llama.rope.scaling.yarn_ext_factor": 0.5}, r"ext_factor is 0\.5, expected -1 or 0"),
        (
            {"llama.rope.scaling.attn_factor": 0.5},
            r"attn_factor is 0\.5, expected 1: it changes",
        ),
        ({"llama.attention.scale": 0.3}, r"attention\.scale is 0\.3\d*, expected 0 or 0\.25"),
        (
            {"llama.expert_count": 8},
            r"llama\.expert_count 8 \(Mixtral\) is not supported: it would need experts",
        ),
        ({"llama.attention.causal": False}, r"attention\.causal is False, expected True"),
        ({"llama.attention.key_length_swa": 8}, r"key_length_swa is 8, expected 0 or 16: it"),
        ({"llama.final_logit_softcapping": 20.0}, r"capping is 20\.0, expected 0 or 30: it"),
        ({"llama.nextn_predict_layers": 1}, r"layers is 1, expected no such key: it may change"),
        ({"llama.use_parallel_residual": True}, r"residual is True, expected False"),
        ({"llama.logit_scale": 2.0}, r"llama\.logit_scale is 2\.0, expected 0 or 1"),
        (
            {"llama.sparsity": 7},
            r"llama\.sparsity is 7, expected no such key: .* --remove-metadata llama\.sparsity",
        ),
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


def test_other_architecture_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "plamo")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    message = r"general\.architecture is 'plamo', expected one of llama, mistral3, qwen2"
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "a.gguf")


SCALED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {"rope_type": "linear", "factor": 4.0},
    ),
    ({"rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    ({"rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    (
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ),
    (
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.yarn_beta_fast": 4.0,
            "rope.scaling.yarn_log_multiplier": 0.1,
        },
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 4.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.1,
        },
    ),
]


@pytest.mark.situation("GGUF file with scaled rope", package="gguf")
@pytest.mark.parametrize(("keys", "scaling"), SCALED, ids=str)
def test_scaling_of_rope_is_read(
    tiny_checkpoint: Write, as_gguf: Write, keys: dict[str, Any], scaling: dict[str, Any]
) -> None:
    plain = tiny_checkpoint("LlamaForCausalLM")
    found = read_config(as_gguf(plain, metadata={f"llama.{k}": v for k, v in keys.items()}))
    assert found == dataclasses.replace(read_config(plain), rope_scaling=scaling)


def factors_of(scaling: dict[str, Any], theta: float, head_dim: int) -> np.ndarray:
    """What transformers divides each frequency by."""
    rope = {**scaling, "rope_theta": theta}
    sizes = {"head_dim": head_dim, "num_attention_heads": 4, "hidden_size": 4 * head_dim}
    scaled = LlamaRotaryEmbedding(transformers.LlamaConfig(**sizes, rope_parameters=rope))
    plain = {"rope_type": "default", "rope_theta": theta}
    unscaled = LlamaRotaryEmbedding(transformers.LlamaConfig(**sizes, rope_parameters=plain))
    return np.asarray((unscaled.inv_freq / scaled.inv_freq).numpy(), np.float32)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.situation("GGUF file with the rope factors of Llama 3", package="gguf")
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_tensor_of_llama_3_is_its_parameters(
    tiny_checkpoint: Write, as_gguf: Write, factor: float
) -> None:
    scaling = {**LLAMA3, "factor": factor}
    source = tiny_checkpoint(
        "LlamaForCausalLM", rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    tensors = {"rope_freqs.weight": factors_of(scaling, 5e5, 16)}
    path = as_gguf(source, tensors=tensors)
    assert read_config(path) == dataclasses.replace(read_config(source), rope_scaling=scaling)
    assert Checkpoint.open(path).config.rope_scaling == scaling  # and the tensor is expected


def test_a_tensor_of_other_factors_is_refused_by_name(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    other = factors_of({**LLAMA3, "low_freq_factor": 2.0}, 1e4, 16)
    path = as_gguf(tiny_checkpoint(), tensors={"rope_freqs.weight": other})
    message = (
        r"rope_freqs\.weight divides the frequencies of rope by .*expected the factors of Llama"
    )
    with pytest.raises(ConfigError, match=message):
        read_config(path)
    both = {"llama.rope.scaling.factor": 4.0}
    path = as_gguf(tiny_checkpoint(), metadata=both, tensors={"rope_freqs.weight": other})
    with pytest.raises(ConfigError, match="'linear' and tensor rope_freqs.weight divides"):
        read_config(path)


def test_key_is_left_out_by_the_command_that_the_error_names(
    tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path
) -> None:
    source = tiny_checkpoint()
    path = as_gguf(source, metadata={"llama.sparsity": 7, "general.name": "any"})
    with pytest.raises(ConfigError) as refusal:
        read_config(path)
    command = str(refusal.value).rpartition(": ")[2].split()
    assert command[0] == "gguf-new-metadata"
    new = tmp_path / "new.gguf"
    named = {"OLD.gguf": str(path), "NEW.gguf": str(new)}
    arguments = [named.get(word, word) for word in command[1:]]
    subprocess.run(
        [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", *arguments],
        check=True,
        capture_output=True,
    )
    assert read_config(new) == read_config(source)


@pytest.mark.situation("GGUF file with end tokens of a turn and of a message", package="gguf")
@pytest.mark.parametrize(
    ("metadata", "ends"),
    [
        ({"eot": 5}, (2, 5)),
        ({"eot": 2}, (2,)),
        ({"eot": 5, "eom": 6}, (2, 5, 6)),
        ({"eos": 7, "eom": 6}, (7, 6)),
        ({"eos": None, "eot": 5}, (2, 5)),  # llama.cpp: SentencePiece's end token is 2
        ({"eos": None}, ()),  # the tokenizer's own
    ],
)
def test_ends_of_a_text_a_turn_and_a_message_are_end_tokens(
    tiny_checkpoint: Write, as_gguf: Write, metadata: dict[str, Any], ends: tuple[int, ...]
) -> None:
    keys = {f"tokenizer.ggml.{name}_token_id": number for name, number in metadata.items()}
    assert read_config(as_gguf(tiny_checkpoint(), metadata=keys)).eos_token_ids == ends


@pytest.mark.situation("GGUF file with a tied head", package="gguf")
def test_head_is_tied_where_it_is_left_out(tiny_checkpoint: Write, as_gguf: Write) -> None:
    tied, untied = tiny_checkpoint(tie=True), tiny_checkpoint()
    assert read_config(as_gguf(tied, name="tied.gguf")).tie_word_embeddings
    assert not read_config(as_gguf(untied, name="untied.gguf")).tie_word_embeddings
