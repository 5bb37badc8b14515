"""Rope of a published config: equal to that of transformers, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tramontane.export.formats.huggingface import to_hugging_face
from tramontane.export.formats.layouts import read_config
from tramontane.export.formats.published_rope import read_rope
from tramontane.export.model.rope import rope_of
from tramontane.runtime.errors import ConfigError
from transformers import AutoConfig
from transformers import MistralConfig as PublishedMistralConfig
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

from .published import LLAMA, MISTRAL, read


@pytest.mark.parametrize(
    "form",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 5e5},
    ],
)
def test_both_forms_of_rope_theta_are_read(tmp_path: Path, form: dict[str, Any]) -> None:
    assert read(tmp_path, **form).rope_theta == 5e5


PLAIN: list[dict[str, Any]] = [
    {"rope_type": "default", "factor": 1},
    {"rope_type": "default", "factor": 1.0},
    {"rope_type": "default", "factor": 4},
    {"type": "default"},
    {"type": "linear", "factor": 1},
    {"rope_type": "linear", "factor": 1.0},
    {"factor": 1},
    {"rope_theta": 5e5},
    {},
]


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("described", PLAIN, ids=str)
def test_scaling_that_scales_nothing_is_the_rope_that_transformers_computes(
    tmp_path: Path, name: str, described: dict[str, Any]
) -> None:
    config = read(tmp_path, rope_theta=5e5, **{name: described})
    theirs = PublishedMistralConfig.from_pretrained(tmp_path)
    D, positions = config.head_dim, torch.arange(64)[None]
    cos, sin = MistralRotaryEmbedding(theirs)(torch.zeros(1), positions)
    angles = positions[0, :, None] / 5e5 ** (torch.arange(0, D, 2) / D)
    torch.testing.assert_close(cos[0, :, : D // 2], angles.cos())
    torch.testing.assert_close(sin[0, :, : D // 2], angles.sin())
    assert config.rope_theta == 5e5


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SCALED: list[dict[str, Any]] = [
    {"rope_scaling": {"type": "linear", "factor": 2}},
    {"rope_scaling": {**LLAMA3, "type": "llama3"}},
    {"rope_scaling": {**YARN, "attention_factor": None, "beta_fast": None}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4}, "max_position_embeddings": 64},
    {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
    {"rope_parameters": {**YARN, "rope_theta": 5e5, "mscale": 1.0, "mscale_all_dim": 1.0}},
    {"rope_parameters": {**YARN, "rope_theta": 5e5, "mscale_all_dim": 0, "beta_fast": 4.0}},
    {"rope_parameters": {**YARN, "truncate": False, "max_position_embeddings": 256}},
]


@pytest.mark.parametrize("described", SCALED, ids=str)
@pytest.mark.parametrize("base", [MISTRAL, LLAMA], ids=["mistral", "llama"])
def test_scaled_rope_is_that_of_transformers(
    tmp_path: Path, base: dict[str, Any], described: dict[str, Any]
) -> None:
    family = "llama" if base is LLAMA else "mistral"
    config = read(tmp_path, base, model_type=family, **described)
    theirs = MistralRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    assert torch.equal(rope_of(config).inverse_frequencies, theirs.inv_freq)
    assert rope_of(config).attention_factor == theirs.attention_scaling
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(config)))
    assert read_config(tmp_path) == config
    written = MistralRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    assert torch.equal(written.inv_freq, theirs.inv_freq)
    assert written.attention_scaling == theirs.attention_scaling


def test_parameters_for_each_kind_of_layer_are_read_where_they_are_one_rope(
    tmp_path: Path,
) -> None:
    of_all = {**YARN, "rope_theta": 5e5}
    kinds = ["sliding_attention", "sliding_attention"]
    nested = {"sliding_attention": of_all, "full_attention": {"rope_theta": 1.0}}
    config = read(tmp_path, rope_parameters=nested, layer_types=kinds)
    assert config == read(tmp_path, rope_parameters=of_all)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"rope_theta": 1e4}, "rope_theta is given twice and differs"),
        (
            {**YARN, "factor": 8.0, "rope_theta": 5e5},
            "rope_parameters.sliding_attention and rope_parameters.full_attention describe two",
        ),
    ],
)
def test_kinds_of_layers_that_differ_in_rope_are_refused(
    other: dict[str, Any], message: str
) -> None:
    nested = {"sliding_attention": {**YARN, "rope_theta": 5e5}, "full_attention": other}
    published = {"rope_parameters": nested, "layer_types": list(nested)}
    with pytest.raises(ConfigError, match=message):
        read_rope(published, default_theta=1e4, max_positions=256)
