"""Configs that are not supported are refused with the file and the value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tramontane.export.formats.layouts import read_config
from tramontane.runtime.errors import ConfigError

from .published import HUGE, MISSING, read


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"factor": 4}}, "rope_scaling has 'factor' and no rope_type, expected"),
        ({"rope_scaling": {"beta_fast": 1}}, "rope_scaling has 'beta_fast' and no rope_type"),
        ({"rope_scaling": {"type": "yarn", "low": 1}}, "rope_scaling has 'low', expected param"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"rope_type": None, "type": "yarn"}}, "factor is missing"),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 1}},
            r"rope_type is 'dynamic'; expected one of default, linear, llama3, yarn \(not supported: "
            "its frequencies change as a sequence grows, and cached keys have the old ones",
        ),
        (
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0]}},
            "rope_type is 'longrope'; .* it changes to other frequencies past the original length",
        ),
        ({"rope_scaling": {"factor": "x"}}, "factor is 'x'; expected a number"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}},
            "rope_parameters has 'sliding_attention' and no rope_type",
        ),
        (
            {
                "rope_parameters": {"full_attention": None},
                "layer_types": ["full_attention"],
            },
            "rope_parameters of full_attention is null, expected parameters",
        ),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor is missing"),
        (
            {
                "rope_parameters": {
                    "rope_type": "linear",
                    "factor": 2,
                    "llama_4_scaling_beta": 0.1,
                    "original_max_position_embeddings": 64,
                }
            },
            "llama_4_scaling_beta is 0.1: MistralForCausalLM ignores it",
        ),
        ({"rope_parameters": {"rope_theta": 1.0}, "rope_theta": 2.0}, "given twice and differs"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"architectures": ["MixtralForCausalLM"]}, "supported are LlamaForCausalLM, Ministral"),
        ({"architectures": MISSING}, "architectures is None and model_type is None; supported"),
        (
            {"architectures": MISSING, "model_type": "gemma"},
            r"model_type 'gemma' \(Gemma\) is not supported: it would need norms",
        ),
        ({"model_type": "llama"}, "expected them to agree: transformers loads what model_type"),
        ({"model_type": ["mistral"]}, r"model_type is \['mistral'\], expected them to agree"),
        ({"architectures": ["LlamaForCausalLM"], "sliding_window": 8}, "LlamaForCausalLM ignores"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"hidden_size": MISSING}, "hidden_size is missing"),
        ({"num_key_value_heads": MISSING}, "num_key_value_heads is missing"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; expected a number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; expected at least 1"),
        ({"num_key_value_heads": 3}, r"\(4\) is not a multiple of num_key_value_heads \(3\)"),
        ({"num_attention_heads": 6}, r"hidden_size \(64\) is not a multiple"),
        ({"head_dim": 15}, "head_dim is 15; rope needs an even one"),
        ({"sliding_window": 0}, "sliding_window is 0; expected at least 1, or null"),
        ({"rope_theta": 0}, "rope_theta is 0.0; expected a finite number above 0"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06; expected a finite number above 0"),
        ({"hidden_size": HUGE}, r"hidden_size is 1000+\.\.\.0+; .* \(whole, below 2\*\*63\)$"),
        ({"rope_theta": HUGE}, r"rope_theta is 1000+\.\.\.0+; expected a number \(finite\)$"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'; expected a number"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id is '</s>'; expected a number"),
        ({"eos_token_id": [2, True]}, "eos_token_id is True; expected a number"),
        ({"eos_token_id": [2, None]}, r"eos_token_id is \[2, None\]; expected no null"),
        ({"eos_token_id": -1}, "eos_token_id is -1; expected at least 0, or null"),
        ({"bos_token_id": "x"}, "bos_token_id is 'x'; expected a number"),
        ({"bos_token_id": -1}, "bos_token_id is -1; expected at least 0, or null"),
        ({"architectures": [["MistralForCausalLM"]]}, r"architectures is \[\['MistralForCa"),
        (
            {"architectures": ["MistralForTokens"], "model_type": "mistral"},
            "supported are .*; if the weights are of MistralForCausalLM, write that name there",
        ),
        (
            {"architectures": ["FSDPMixtralForCausalLM"]},
            "MixtralForCausalLM.* supported are Llama",
        ),
        ({"rope_scaling": {"type": ["yarn"]}}, r"rope_type is \['yarn'\]; expected one of"),
        ({"rope_parameters": {"rope_theta": [1]}}, r"rope_theta is \[1\]; expected a number"),
        ({"rope_parameters": []}, r"rope_parameters is \[\], expected an object"),
        (
            {
                "rope_parameters": {"rope_type": "default"},
                "rope_scaling": {"type": "linear", "factor": 2},
            },
            "rope_parameters and rope_scaling describe two ropes",
        ),
        ({"rope_scaling": {"rope_theta": 1.0}, "rope_theta": 2.0}, "given twice and differs"),
        ({"partial_rotary_factor": "x"}, "partial_rotary_factor is 'x'; expected a number"),
        ({"layer_types": [[]]}, r"layer_types is \[\[\]\]; expected a list of names"),
        ({"layer_types": 1}, "layer_types is 1; expected a list of names"),
        ({"attention_bias": []}, r"attention_bias is \[\]; expected true or false"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; expected true or false"),
    ],
)
def test_unsupported_config_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        read(tmp_path, **changes)
    assert str(refusal.value).startswith(str(tmp_path / "config.json"))


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        read_config(tmp_path / "nowhere")


def test_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a checkpoint, it holds no config\.json, params"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 10**5, "not JSON"),
        (b"[]", "holds a list, expected an object"),
    ],
)
def test_config_that_is_no_json_object_is_refused(
    tmp_path: Path, text: bytes, message: str
) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", float("inf"), "hidden_size is inf; expected a number"),
        ("hidden_size", True, "hidden_size is True; expected a number"),
        ("rope_parameters", "long", "rope_parameters is 'long', expected an object"),
    ],
)
def test_a_value_of_another_kind_is_refused(
    tiny_checkpoint: Callable[..., Path], key: str, value: object, message: str
) -> None:
    folder = tiny_checkpoint()
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_config(folder)


@pytest.mark.parametrize("size", [10**8, 10**9, 10**12, 2**62])
@pytest.mark.parametrize(
    "name",
    [
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("vocab_size", "head_dim", "max_position_embeddings", "sliding_window"),
    ],
)
def test_a_size_that_no_machine_holds_is_refused(tmp_path: Path, name: str, size: int) -> None:
    others = {"num_key_value_heads": 1, "head_dim": 16}
    with pytest.raises(ConfigError, match=rf"{name} is {size}; expected at most \d+"):
        read(tmp_path, **{**others, name: size})


def test_a_config_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"config\.json: is larger than 67\.11 MB"):
        read_config(tmp_path)
