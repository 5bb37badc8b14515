"""Values that a config gives are kept, and written configs are read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tramontane.export.formats.huggingface import to_hugging_face
from tramontane.export.formats.layouts import read_config
from tramontane.export.model.model import Mistral
from transformers import AutoConfig

from .published import read


def test_swish_and_null_are_silu(tmp_path: Path) -> None:
    assert read(tmp_path, hidden_act="swish") == read(tmp_path, hidden_act=None) == read(tmp_path)


def test_given_values_are_kept(tmp_path: Path) -> None:
    config = read(
        tmp_path, head_dim=32, sliding_window=8, tie_word_embeddings=True, eos_token_id=[2, 3]
    )
    assert (config.head_dim, config.sliding_window) == (32, 8)
    assert config.tie_word_embeddings
    assert config.eos_token_ids == (2, 3)


def test_config_that_transformers_writes_is_read(stdlib_5m: Path) -> None:
    config = read_config(stdlib_5m)
    assert (config.sliding_window, config.rope_theta, config.eos_token_ids) == (64, 1e4, (2,))


KINDS: list[dict[str, Any]] = [
    {},
    {"sliding_window": None, "eos_token_id": [2, 3]},
    {"tie_word_embeddings": True, "head_dim": 32, "bos_token_id": 1, "eos_token_id": 2},
    {"architectures": ["LlamaForCausalLM"], "rope_theta": 1e6, "vocab_size": 32016},
]


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_written_config_is_read_back_equal_also_by_transformers(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = read(tmp_path, **changes)
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(config)))
    assert read_config(tmp_path) == config
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.architectures == [config.architecture]
    assert theirs.rope_parameters == {"rope_theta": config.rope_theta, "rope_type": "default"}
    assert getattr(theirs, "sliding_window", None) == config.sliding_window
    theirs.save_pretrained(tmp_path)
    assert read_config(tmp_path) == config


@pytest.mark.parametrize("tie", [False, True])
def test_parameters_are_as_many_as_the_model_has(
    tiny_checkpoint: Callable[..., Path], tie: bool
) -> None:
    config = read_config(tiny_checkpoint(tie=tie, num_attention_heads=6, num_key_value_heads=3))
    found = sum(parameter.numel() for parameter in Mistral(config).parameters())
    assert config.num_parameters == found
