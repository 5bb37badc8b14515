"""Are families that are not supported refused with what transformers computes for them?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers
from tramontane.export.architectures import not_supported as listed
from tramontane.export.architectures.all_architectures import ARCHITECTURES
from tramontane.export.architectures.not_supported import NOT_SUPPORTED, not_supported
from tramontane.export.formats.layouts import read_config
from tramontane.runtime.errors import ConfigError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# What of transformers' source of a family shows that it has a part.
EVIDENCE = {
    listed.EXPERTS: r"class \w+Experts\b",
    listed.LATENT: r"config\.kv_lora_rank",
    listed.INDEXER: r"class \w+Indexer\b",
    listed.SINKS: r"self\.sinks = ",
    listed.CHUNKED: r"create_chunked_causal_mask",
    listed.RECURRENT: r"recurrent_state",
    listed.SHARED_CACHE: r"shared_kv_states",
    listed.HEADS_AFTER_ROPE: r"apply_rotary_emb(?s:.)+query_states = self\.qk_norm\(",
    listed.WHOLE_NORMS: r"self\.q_norm = \w+\(config\.num_attention_heads \* self\.head_dim",
    listed.ROPE_BY_KIND: r"rope_parameters\[layer_type\]",
    listed.PARTIAL_ROPE: r"partial_rotary_factor",
    listed.LONGROPE: r'\["default", "longrope"\]',
    listed.OFFSET_NORMS: r"\(1\.0 \+ self\.weight\.float\(\)\)",
    listed.LAYER_NORMS: r"nn\.LayerNorm\b|hidden_states - mean",
    listed.NORMS_AFTER: r"self\.post_(feedforward|mlp)_layernorm\(",
    listed.SCALED_EMBEDDING: r"embed_scale=|\* self\.embedding_multiplier",
    listed.MULTIPLIERS: r"\* self\.residual_multiplier|\* self\.logit_scale",
    listed.SOFT_CAPS: r"logits / self\.(config\.)?final_logit_softcapping",
    listed.SIDE_BY_SIDE: r"= residual \+ \w*attention + \+|attn_outputs \+ feed_forward|"
    r"residual \+ hidden_states_attention \+ hidden_states_mlp",
    listed.PER_LAYER_INPUT: r"self\.per_layer_input_gate = ",
    listed.FUSED: r"self\.gate_up_proj = nn\.Linear",
    listed.NOT_SILU: r'hidden_act(ivation)?: str = "(gelu|relu2)',
    listed.BIASES: r"bias=True|bias=config\.use_bias|_bias = nn\.Parameter",
}
OF_GGUF = set(gguf.MODEL_ARCH_NAMES.values())


def source_of(kind: str) -> str:
    folder = Path(transformers.__file__).parent / "models" / kind
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*_*.py")))


def families() -> list[Any]:
    return [pytest.param(one, id=one.name) for one in NOT_SUPPORTED]


@pytest.mark.parametrize("family", families())
def test_each_need_is_computed_by_transformers(family: listed.NotSupported) -> None:
    kinds = [kind for kind in family.types if kind in CONFIG_MAPPING]
    assert kinds
    for kind in kinds:
        source = source_of(kind)
        assert [need for need in family.needs if not re.search(EVIDENCE[need], source)] == []


def test_every_name_is_one_that_files_have() -> None:
    names = [kind for family in NOT_SUPPORTED for kind in family.types]
    assert [name for name in names if name not in CONFIG_MAPPING and name not in OF_GGUF] == []
    assert len(set(names)) == len(names)


def test_names_of_gguf_are_found_and_supported_ones_are_not() -> None:
    for name, family in (("gpt-oss", "gpt-oss"), ("qwen2moe", "Qwen MoE"), ("phi2", "Phi 1 and")):
        assert name in OF_GGUF
        found = not_supported(name)
        assert found is not None
        assert found.name.startswith(family)
    for own in ARCHITECTURES.values():
        assert not_supported(own.name) is None
        assert not_supported(own.model_type) is None


def published(kind: str) -> str:
    """What a checkpoint of transformers itself would say."""
    config = CONFIG_MAPPING[kind]()
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    name = mapping.get(kind) or mapping.get(f"{kind}_text")
    return json.dumps({"architectures": [name], "model_type": config.model_type})


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "phi3", "mixtral", "mistral4", "gpt_oss"])
def test_config_json_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(published(kind), encoding="utf-8")
    family = not_supported(kind)
    assert family is not None
    with pytest.raises(ConfigError) as refusal:
        read_config(tmp_path)
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path / 'config.json'}: model_type {kind!r} ({family.name})")
    assert f"is not supported: it would need {'; '.join(family.needs)}; supported" in message


def test_class_without_a_model_type_is_refused_by_name(tmp_path: Path) -> None:
    text = json.dumps({"architectures": ["Gemma3ForConditionalGeneration"]})
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    message = r"architectures 'Gemma3ForConditionalGeneration' \(Gemma 3\) is not supported: it wo"
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("moe", {"num_experts": 8}, r"moe \(.*\) \(Mixtral\) is not supported: it would need exp"),
        ("kv_lora_rank", 256, r"kv_lora_rank \(256\) \(Mistral 4\) is not supported: it would"),
        ("model_type", "mamba", r"model_type \('mamba'\) \(Mamba\) is not supported: it would"),
    ],
)
def test_params_json_is_refused_by_name(
    as_mistral: Callable[..., Path],
    tiny_checkpoint: Callable[..., Path],
    key: str,
    value: Any,
    message: str,
) -> None:
    folder = as_mistral(tiny_checkpoint(), **{key: value})
    with pytest.raises(ConfigError, match=message):
        read_config(folder)


@pytest.mark.parametrize("name", ["gemma3", "phi2", "deepseek2", "gpt-oss", "command-r"])
def test_gguf_is_refused_by_name(tmp_path: Path, name: str) -> None:
    assert name in OF_GGUF
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    message = (
        rf"general\.architecture '{name}' \(.*\) is not supported: it would need .*; supported"
    )
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "a.gguf")
