"""What each architecture's config means: left-out keys, windows and rope of its layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tramontane.export.formats.huggingface import to_hugging_face
from tramontane.export.formats.layouts import read_config
from tramontane.runtime.errors import ConfigError
from transformers import LlamaConfig
from transformers import MinistralConfig as PublishedMinistralConfig
from transformers import MistralConfig as PublishedMistralConfig

from .published import LLAMA, MISSING, MISTRAL, read


@pytest.mark.parametrize(
    ("base", "documented"), [(MISTRAL, PublishedMistralConfig()), (LLAMA, LlamaConfig())]
)
def test_left_out_keys_mean_what_transformers_documents(
    tmp_path: Path, base: dict[str, Any], documented: Any
) -> None:
    config = read(tmp_path, base)
    assert config.rms_norm_eps == documented.rms_norm_eps
    assert config.rope_theta == documented.rope_parameters["rope_theta"]
    assert config.sliding_window == getattr(documented, "sliding_window", None)
    assert config.max_position_embeddings == documented.max_position_embeddings
    assert config.tie_word_embeddings == documented.tie_word_embeddings
    assert config.head_dim == 64 // 4


def test_llama_without_key_value_heads_has_one_for_every_query_head(tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA, num_key_value_heads=MISSING).num_key_value_heads == 4


def test_null_window_is_no_window(tmp_path: Path) -> None:
    assert read(tmp_path, sliding_window=None).sliding_window is None


MINISTRAL = {**MISTRAL, "architectures": ["MinistralForCausalLM"]}
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"sliding_window": 8, "layer_types": [FULL, SLIDING]}, (None, 8)),
        ({"sliding_window": 8, "layer_types": [FULL, FULL]}, (None, None)),
        ({"sliding_window": 8, "layer_types": None}, (8, 8)),
        ({"layer_types": [SLIDING, FULL]}, (4096, None)),
        ({"sliding_window": None}, (None, None)),
        ({}, (4096, 4096)),
    ],
    ids=str,
)
def test_layers_of_ministral_have_the_windows_of_their_types(
    tmp_path: Path, changes: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    config = read(tmp_path, MINISTRAL, **changes)
    assert config.windows == windows
    theirs = PublishedMinistralConfig.from_pretrained(tmp_path)
    assert windows == tuple(
        theirs.sliding_window if kind == SLIDING else None for kind in theirs.layer_types
    )
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(config)))
    assert read_config(tmp_path) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": [FULL]}, "layer_types has 1 entries, expected one for each of the 2"),
        ({"layer_types": [FULL, "chunked_attention"]}, "layer_types has 'chunked_attention'"),
        (
            {"layer_types": [FULL, SLIDING], "sliding_window": None},
            "sliding_attention and no window is given",
        ),
    ],
    ids=str,
)
def test_layer_types_that_say_no_window_for_each_layer_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, MINISTRAL, **changes)


def neighbour(name: str, **changes: Any) -> dict[str, Any]:
    return {**MISTRAL, "architectures": [f"{name}ForCausalLM"], "num_hidden_layers": 8, **changes}


@pytest.mark.parametrize(
    ("published", "kind"),
    [
        (neighbour("Qwen2"), transformers.Qwen2Config),
        (neighbour("Qwen2", sliding_window=8), transformers.Qwen2Config),
        (
            neighbour("Qwen2", use_sliding_window=True, max_window_layers=3),
            transformers.Qwen2Config,
        ),
        (
            neighbour("Qwen2", use_sliding_window=True, layer_types=[FULL, SLIDING] * 4),
            transformers.Qwen2Config,
        ),
        (neighbour("Qwen3"), transformers.Qwen3Config),
        (
            neighbour("Qwen3", use_sliding_window=True, sliding_window=8, max_window_layers=0),
            transformers.Qwen3Config,
        ),
        (neighbour("SmolLM3"), transformers.SmolLM3Config),
        (neighbour("SmolLM3", no_rope_layer_interval=3), transformers.SmolLM3Config),
        (neighbour("SmolLM3", no_rope_layers=[0, 1] * 5), transformers.SmolLM3Config),
        (
            neighbour("SmolLM3", use_sliding_window=True, sliding_window=8),
            transformers.SmolLM3Config,
        ),
    ],
    ids=str,
)
def test_neighbours_are_read_as_transformers_reads_them(
    tmp_path: Path, published: dict[str, Any], kind: Any
) -> None:
    config = read(tmp_path, published)
    theirs = kind.from_pretrained(tmp_path)
    assert config.windows == tuple(
        theirs.sliding_window if one == SLIDING else None for one in theirs.layer_types
    )
    has_rope = getattr(theirs, "no_rope_layers", [1] * 8)[:8]
    assert config.unrotated_layers == tuple(n for n, rotates in enumerate(has_rope) if not rotates)
    assert config.has_qkv_bias == (kind is transformers.Qwen2Config)
    assert config.has_head_norms == (kind is transformers.Qwen3Config)
    assert config.rms_norm_eps == theirs.rms_norm_eps
    assert config.rope_theta == theirs.rope_parameters["rope_theta"]
    assert config.max_position_embeddings == theirs.max_position_embeddings
    assert config.tie_word_embeddings == theirs.tie_word_embeddings
    assert config.head_dim == (getattr(theirs, "head_dim", None) or 64 // 4)
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(config)))
    assert read_config(tmp_path) == config
    again = kind.from_pretrained(tmp_path)
    assert again.layer_types == theirs.layer_types
    assert getattr(again, "no_rope_layers", [1] * 8)[:8] == has_rope


@pytest.mark.parametrize(
    ("published", "message"),
    [
        (
            neighbour("Qwen2", layer_types=[SLIDING] * 8),
            "layer_types has sliding_attention and no window is given",
        ),
        (neighbour("SmolLM3", no_rope_layers=[1]), "no_rope_layers has 1 entries, expected one"),
        (neighbour("SmolLM3", no_rope_layer_interval=0), "no_rope_layer_interval is 0; expected"),
        (neighbour("Qwen3", use_sliding_window="yes"), "use_sliding_window is 'yes'; expected"),
    ],
    ids=str,
)
def test_neighbours_that_say_nothing_clear_are_refused(
    tmp_path: Path, published: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, published)
