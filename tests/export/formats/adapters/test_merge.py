"""Merged weights are those of PEFT, whatever its config asks for and whatever the base's layout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tramontane.export.formats import checkpoint as checkpoint_module
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.tensor_names import HUGGING_FACE
from tramontane.export.model.load import load_reference

Write = Callable[..., Path]
BOUND = 1e-5  # largest |difference| of two float32 weights
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 8}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.randint(2048, (1, 20), generator=torch.Generator().manual_seed(1))


def base_model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )


def make_adapter(
    model: Any, out: Path, *, base: Path, embeddings: Any = "auto", **config: Any
) -> Any:
    """Add an adapter to a model, give it random numbers, and save it."""
    asked = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **asked))
        torch.manual_seed(len(str(config)))
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.2)
        for one in adapted.peft_config.values():
            one.base_model_name_or_path = str(base)
        adapted.save_pretrained(out, save_embedding_layers=embeddings)
    return adapted


def merged_by_peft(base: Path, adapters: Sequence[Path], *, vocab_size: int | None = None) -> Any:
    model = base_model(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for adapter in adapters:
            if vocab_size is not None:
                model.resize_token_embeddings(vocab_size, mean_resizing=False)
            model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval()


def assert_merged(
    path: Path, adapters: Sequence[Path], expected: Any, *, is_tied: bool = False
) -> None:
    """Compare every parameter, and the logits, with a model of transformers."""
    with Checkpoint.open(path, adapters) as found:
        assert found.config.tie_word_embeddings == is_tied
        for name, tensor in expected.state_dict().items():
            ours = next(p for p in found.parameters if HUGGING_FACE.published(p) == name)
            np.testing.assert_allclose(found.read(ours), tensor, rtol=0, atol=BOUND, err_msg=name)
        model = load_reference(found.config, found)
    with torch.no_grad():
        logits = model(IDS, torch.ones_like(IDS), model.empty_cache(1))[0]
        assert (logits - expected(IDS, use_cache=False).logits).abs().max() < 1e-4


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all layers, rank stabilized": {"target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "target_modules": ALL,
        "rank_pattern": {"down_proj": 2, r"layers\.1\.self_attn\.q_proj": 6},
        "alpha_pattern": {"down_proj": 3, "model.layers.0.mlp.up_proj": 32},
    },
    "saved modules": {"modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
    "fan_in_fan_out": {"target_modules": ["k_proj"], "fan_in_fan_out": True},
    "one layer": {"target_modules": ["q_proj", "k_proj"], "layers_to_transform": [1]},
}


@pytest.mark.situation(
    "LoRA adapters: several in order, patterns, rank stabilization, saved modules, added tokens",
    package="peft",
)
@pytest.mark.parametrize("config", CONFIGS)
def test_adapter_gives_the_weights_of_peft(
    tiny_checkpoint: Write, tmp_path: Path, config: str
) -> None:
    base = tiny_checkpoint(**SMALL)
    make_adapter(base_model(base), tmp_path / "lora", base=base, **CONFIGS[config])
    assert_merged(base, [tmp_path / "lora"], merged_by_peft(base, [tmp_path / "lora"]))


@pytest.mark.parametrize("layout", ["as_mistral", "as_gguf"])
def test_adapter_on_another_layout_gives_the_weights_of_peft(
    tiny_checkpoint: Write, tmp_path: Path, layout: str, request: pytest.FixtureRequest
) -> None:
    base, out = tiny_checkpoint(**SMALL), tmp_path / "lora"
    make_adapter(base_model(base), out, base=base, target_modules=ALL)
    same = request.getfixturevalue(layout)(base)
    assert_merged(same, [out], merged_by_peft(base, [out]))


def test_several_adapters_are_merged_in_order(tiny_checkpoint: Write, tmp_path: Path) -> None:
    base, adapters = tiny_checkpoint(**SMALL), [tmp_path / name for name in "abc"]
    kinds = (
        {"target_modules": ALL},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["lm_head"]},
    )
    for adapter, config in zip(adapters, kinds, strict=True):
        make_adapter(base_model(base), adapter, base=base, **config)
    assert_merged(base, adapters, merged_by_peft(base, adapters))
    backwards = adapters[::-1]
    assert_merged(base, backwards, merged_by_peft(base, backwards))
    one, other = (Checkpoint.open(base, each).hashes() for each in (adapters, backwards))
    assert one.keys() == other.keys()
    assert one != other
    assert {"adapter-3/adapter_config.json", "adapter-3/adapter_model.safetensors"} <= set(one)


@pytest.mark.parametrize("tie", [False, True])
def test_embeddings_of_added_tokens_enlarge_the_vocabulary(
    tiny_checkpoint: Write, tmp_path: Path, tie: bool
) -> None:
    base, out = tiny_checkpoint(**SMALL, tie=tie), tmp_path / "lora"
    model = base_model(base)
    model.resize_token_embeddings(2051, mean_resizing=False)
    make_adapter(model, out, base=base)
    assert_merged(base, [out], merged_by_peft(base, [out], vocab_size=2051), is_tied=tie)
    with Checkpoint.open(base, [out]) as found:
        assert found.config.vocab_size == 2051
        assert (found.config_json() or {})["vocab_size"] == 2051


TIED: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "saved": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embedding": {"modules_to_save": ["embed_tokens"]},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", TIED)
def test_tied_ends_that_an_adapter_changes_are_untied_as_the_adapted_model_has_them(
    tiny_checkpoint: Write, tmp_path: Path, kind: str
) -> None:
    base, out = tiny_checkpoint(**SMALL, tie=True), tmp_path / "lora"
    make_adapter(base_model(base), out, base=base, **TIED[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(base_model(base), out).eval()
    with Checkpoint.open(base, [out]) as found:
        assert not found.config.tie_word_embeddings
        assert (found.config_json() or {})["tie_word_embeddings"] is False
        model = load_reference(found.config, found)
    logits = model(IDS, torch.ones_like(IDS), model.empty_cache(1))[0]
    assert (logits - adapted(IDS, use_cache=False).logits).abs().max() < 1e-4


def test_ends_that_an_adapter_saves_equal_stay_tied(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    base, out = tiny_checkpoint(**SMALL, tie=True), tmp_path / "lora"
    make_adapter(base_model(base), out, base=base, modules_to_save=["lm_head", "embed_tokens"])
    own = load_file(out / "adapter_model.safetensors")
    head = own["base_model.model.lm_head.weight"]
    own["base_model.model.model.embed_tokens.weight"] = head.clone()
    save_file(own, out / "adapter_model.safetensors")
    with Checkpoint.open(base, [out]) as found:
        assert found.config.tie_word_embeddings
        np.testing.assert_array_equal(found.read("embedding.weight"), head)


def test_bin_files_and_names_of_the_adapter_are_read(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    base, out = tiny_checkpoint(**SMALL), tmp_path / "lora"
    make_adapter(base_model(base), out, base=base, target_modules=ALL)
    expected = merged_by_peft(base, [out])
    own = load_file(out / "adapter_model.safetensors")
    (out / "adapter_model.safetensors").unlink()
    named = {n.replace("lora_A.w", "lora_A.default.w"): t.bfloat16() for n, t in own.items()}
    torch.save(named, out / "adapter_model.bin")
    with Checkpoint.open(base, [out]) as found:
        weight = expected.state_dict()["model.layers.0.self_attn.q_proj.weight"]
        np.testing.assert_allclose(
            found.read("layers.0.attention.query.weight"), weight, atol=0.02
        )
        assert "adapter-1/adapter_model.bin" in found.hashes()


@pytest.mark.parametrize("elements", [1, 100, 1 << 20])
def test_slices_of_any_size_give_the_same_weights(
    tiny_checkpoint: Write, tmp_path: Path, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, out = tiny_checkpoint(**SMALL, vocab_size=200), tmp_path / "lora"
    make_adapter(base_model(base), out, base=base, target_modules=["embed_tokens", "q_proj"])
    expected = merged_by_peft(base, [out]).state_dict()
    monkeypatch.setattr(checkpoint_module, "_SLICE_ELEMENTS", elements)
    with Checkpoint.open(base, [out]) as found:
        for name in ("embedding.weight", "layers.1.attention.query.weight"):
            published = expected[HUGGING_FACE.published(name)]
            np.testing.assert_allclose(found.read(name), published, rtol=0, atol=BOUND)
