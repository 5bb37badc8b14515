from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tramontane.export.config import MistralConfig
from tramontane.export.formats.huggingface import to_hugging_face
from tramontane.export.formats.layouts import read_config
from tramontane.export.formats.mistral import to_params_json
from tramontane.export.formats.published_rope import read_rope
from tramontane.export.model.model import Mistral
from tramontane.export.model.rope import rope_of
from tramontane.runtime.errors import ConfigError
from transformers import AutoConfig, LlamaConfig
from transformers import MinistralConfig as PublishedMinistralConfig
from transformers import MistralConfig as PublishedMistralConfig
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
}
LLAMA = {**MISTRAL, "architectures": ["LlamaForCausalLM"]}
MISSING = object()
HUGE = 10**400


def read(folder: Path, base: dict[str, Any] = MISTRAL, **changes: Any) -> MistralConfig:
    published = {k: v for k, v in {**base, **changes}.items() if v is not MISSING}
    (folder / "config.json").write_text(json.dumps(published))
    return read_config(folder)


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


def test_swish_and_null_are_silu(tmp_path: Path) -> None:
    assert read(tmp_path, hidden_act="swish") == read(tmp_path, hidden_act=None) == read(tmp_path)


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


# Every key that is read, with a value that is supported.
FULL: dict[str, Any] = MISTRAL | json.loads("""{
    "head_dim": 16, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    "sliding_window": 8, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2],
    "hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "quantization_config": null,
    "partial_rotary_factor": 1, "layer_types": ["sliding_attention"],
    "rope_scaling": {"type": "default", "rope_theta": 1e4},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1}
}""")
PARAMS: dict[str, Any] = json.loads("""{
    "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16,
    "vocab_size": 2048, "norm_eps": 1e-5, "rope_theta": 1e4, "sliding_window": 8,
    "max_seq_len": 512, "max_position_embeddings": 512, "max_batch_size": 1,
    "tied_embeddings": true, "tie_word_embeddings": true,
    "model_type": "transformer", "causal": true, "use_biases": false, "moe": null
}""")
INNER = [
    *((name, 0) for name in ("architectures", "eos_token_id", "layer_types")),
    *((outer, name) for outer in ("rope_scaling", "rope_parameters") for name in FULL[outer]),
]
PLACES = [
    *(("config.json", FULL, place) for place in [*((name,) for name in FULL), *INNER]),
    *(("params.json", PARAMS, (name,)) for name in PARAMS),
]
ANYTHING = [None, True, -1, 0, 1.5, "x", [], [1], [[]], {}, {"a": 1}, HUGE, math.nan, math.inf]


@pytest.mark.parametrize(
    ("file", "valid", "place"),
    PLACES,
    ids=lambda part: "" if isinstance(part, dict) else str(part),
)
@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: repr(value)[:9])
def test_any_value_in_any_place_is_refused_or_makes_a_config_that_is_written_and_read_back(
    tmp_path: Path, file: str, valid: dict[str, Any], place: tuple[str | int, ...], value: object
) -> None:
    path = tmp_path / file
    path.write_text(json.dumps(valid))
    read_config(tmp_path)
    content = holder = copy.deepcopy(valid)
    *parents, last = place
    for name in parents:
        holder = holder[name]  # type: ignore[index]
    holder[last] = value  # type: ignore[index]
    path.write_text(json.dumps(content))
    try:
        config = read_config(tmp_path)
    except ConfigError as refusal:
        message = str(refusal)
        assert message.startswith(f"{path}: ")
        assert len(message) < len(str(path)) + 300
        return
    written = to_hugging_face(config) if file == "config.json" else to_params_json(config)
    path.write_text(json.dumps(written, allow_nan=False))
    assert read_config(tmp_path) == config


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
