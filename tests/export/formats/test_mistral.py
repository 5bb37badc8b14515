"""params.json of Mistral's own layout: read, written, refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tramontane.export.config import MistralConfig
from tramontane.export.formats.layouts import read_config
from tramontane.export.formats.mistral import to_params_json
from tramontane.export.model.rope import rope_of
from tramontane.runtime.errors import ConfigError
from transformers import MistralConfig as PublishedMistralConfig
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

# What Mistral published for its three releases of 7B.
V1 = {
    "dim": 4096,
    "n_layers": 32,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "sliding_window": 4096,
    "vocab_size": 32000,
}
V2 = {**{k: v for k, v in V1.items() if k != "sliding_window"}, "rope_theta": 1000000.0}
V3 = {**V2, "vocab_size": 32768}
MISSING = object()
# Of Ministral 3, without its scale of queries.
YARN = {
    "original_max_position_embeddings": 16384,
    "factor": 16,
    "apply_scale": False,
    "beta": 32,
    "alpha": 1,
}


@pytest.mark.parametrize("apply_scale", [True, False, None])
def test_yarn_is_read_as_hugging_face_s_and_written_back(
    tmp_path: Path, apply_scale: bool | None
) -> None:
    described = {**YARN, "apply_scale": apply_scale}
    config = read(tmp_path, V2, yarn=described, max_seq_len=262144)
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        # Two weights that are equal cancel; without the second, attention is scaled.
        **({"mscale": 1.0, "mscale_all_dim": 1.0} if apply_scale is False else {}),
    }
    theirs = PublishedMistralConfig(
        head_dim=128, max_position_embeddings=262144, rope_parameters=rope
    )
    expected = MistralRotaryEmbedding(theirs)
    assert torch.equal(rope_of(config).inverse_frequencies, expected.inv_freq)
    assert rope_of(config).attention_factor == expected.attention_scaling
    (tmp_path / "params.json").write_text(json.dumps(to_params_json(config)))
    assert read_config(tmp_path) == config


@pytest.mark.parametrize("yarn", [{**YARN, "apply_scale": False}, None])
def test_queries_that_grow_make_a_ministral_3_and_are_written_back(
    tmp_path: Path, yarn: dict[str, Any] | None
) -> None:
    grown = {"beta": 0.1, "original_max_position_embeddings": 16384}
    config = read(tmp_path, V2, yarn=yarn, llama_4_scaling=grown)
    assert config.architecture == "Ministral3ForCausalLM"
    assert config.query_scale == (0.1, 16384)
    assert config.rope_scaling["rope_type"] == ("yarn" if yarn else "default")
    written = to_params_json(config)
    assert written["llama_4_scaling"] == grown
    assert read(tmp_path, written) == config


def test_scaling_that_params_json_has_no_words_for_is_not_written(tmp_path: Path) -> None:
    linear = dataclasses.replace(read(tmp_path), rope_scaling={"rope_type": "linear", "factor": 2})
    with pytest.raises(ConfigError, match="params.json: rope is scaled by .* expected yarn with"):
        to_params_json(linear)


def read(folder: Path, base: dict[str, Any] = V1, **changes: Any) -> MistralConfig:
    published = {k: v for k, v in {**base, **changes}.items() if v is not MISSING}
    (folder / "params.json").write_text(json.dumps(published))
    return read_config(folder)


@pytest.mark.parametrize(
    ("params", "window", "theta", "vocab_size", "num_parameters"),
    [
        (V1, 4096, 1e4, 32000, 7_241_732_096),
        (V2, None, 1e6, 32000, 7_241_732_096),
        (V3, None, 1e6, 32768, 7_248_023_552),
    ],
    ids=["v0.1", "v0.2", "v0.3"],
)
def test_published_releases_are_read(
    tmp_path: Path,
    params: dict[str, Any],
    window: int | None,
    theta: float,
    vocab_size: int,
    num_parameters: int,
) -> None:
    config = read(tmp_path, params)
    assert config.architecture == "MistralForCausalLM"
    assert (config.sliding_window, config.rope_theta) == (window, theta)
    assert (config.vocab_size, config.num_parameters) == (vocab_size, num_parameters)
    assert (config.hidden_size, config.intermediate_size) == (4096, 14336)
    assert (config.num_attention_heads, config.num_key_value_heads) == (32, 8)
    assert config.max_position_embeddings == 32768
    assert not config.tie_word_embeddings


def test_null_window_is_no_window(tmp_path: Path) -> None:
    assert read(tmp_path, sliding_window=None).sliding_window is None


@pytest.mark.parametrize("name", ["max_seq_len", "max_position_embeddings"])
def test_positions_are_kept_by_either_name(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, **{name: 8192}).max_position_embeddings == 8192


@pytest.mark.parametrize("name", ["tied_embeddings", "tie_word_embeddings"])
def test_tied_head_is_known_by_either_name(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, **{name: True}).tie_word_embeddings


@pytest.mark.parametrize(
    "nothing",
    [
        {"moe": None},
        {"vision_encoder": None, "quantization": None},
        {"use_biases": False},
        {"model_type": "transformer", "causal": True, "max_batch_size": 1},
    ],
    ids=str,
)
def test_key_that_says_nothing_is_no_matter(tmp_path: Path, nothing: dict[str, Any]) -> None:
    assert read(tmp_path, **nothing) == read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe": {"num_experts": 8}}, r"moe \(\{'num_experts': 8\}\) \(Mixtral\) is not supp"),
        ({"vision_encoder": {"hidden_size": 1}}, "vision_encoder .* is not supported"),
        ({"quantization": {"qformat_weight": "fp8"}}, "qformat_weight of quantization is "),
        ({"yarn": {"factor": 16, "gamma": 1}}, "yarn has 'gamma', expected factor, original_max"),
        ({"yarn": {"factor": 16}}, "yarn has no original_max_position_embeddings, expected"),
        ({"yarn": {"original_max_position_embeddings": 16}}, "yarn has no factor, expected"),
        ({"yarn": {**YARN, "apply_scale": 1}}, "apply_scale is 1; expected true or false"),
        ({"yarn": 1}, "yarn is 1, expected an object"),
        ({"llama_4_scaling": {"beta": 1}}, r"llama_4_scaling has \['beta'\], expected beta and"),
        (
            {
                "yarn": YARN,
                "llama_4_scaling": {"beta": 1, "original_max_position_embeddings": 7},
            },
            "yarn and llama_4_scaling have other original lengths",
        ),
        ({"rope_scaling": {"factor": 8}}, "rope_scaling .* is not supported"),
        ({"lora": {"rank": 64}}, "lora .* is not supported"),
        ({"multiple_of": 256}, r"multiple_of \(256\) is not supported"),
        ({"use_biases": True}, r"use_biases \(True\) is not supported"),
        ({"anything": 0}, r"anything \(0\) is not supported"),
        ({"causal": False}, r"causal \(False\) is not supported"),
        ({"model_type": "mamba"}, r"model_type \('mamba'\) \(Mamba\) is not supp"),
        ({"dim": MISSING}, "dim is missing"),
        ({"n_kv_heads": MISSING}, "n_kv_heads is missing"),
        ({"norm_eps": MISSING}, "norm_eps is missing"),
        ({"n_layers": 0}, "num_hidden_layers is 0; expected at least 1"),
        ({"head_dim": 15}, "head_dim is 15; rope needs an even one"),
        ({"sliding_window": [8] * 7}, "sliding_window has 7 entries for"),
        ({"sliding_window": 0}, "sliding_window is 0; expected at least 1"),
        ({"tied_embeddings": "yes"}, "tied_embeddings is 'yes'; expected true or false"),
        ({"tied_embeddings": True, "tie_word_embeddings": 0}, "is 0; expected true or false"),
        ({"tied_embeddings": []}, r"tied_embeddings is \[\]; expected true or false"),
        ({"max_seq_len": [1]}, r"max_seq_len is \[1\]; expected a number"),
        ({"vocab_size": 10**400}, r"vocab_size is 1000+\.\.\.0+; expected a number \(whole"),
        ({"norm_eps": 0}, "norm_eps is 0.0; expected a finite number above 0"),
        ({"rope_theta": -1}, "rope_theta is -1.0; expected a finite number above 0"),
        ({"max_seq_len": 1, "max_position_embeddings": 2}, r"differ: \[2, 1\]"),
    ],
)
def test_unsupported_params_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        read(tmp_path, **changes)
    assert str(refusal.value).startswith(str(tmp_path / "params.json"))


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "holds a list")])
def test_params_that_are_no_json_object_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "params.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path)
