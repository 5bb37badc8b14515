"""Checkpoints as people save them: other prefixes, base models, leftovers of training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.model.load import load_reference
from tramontane.runtime.errors import CheckpointError

Write = Callable[..., Path]
Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
BOUND = 1e-4  # largest |difference| of two float32 logits
IDS = torch.randint(2048, (2, 24), generator=torch.Generator().manual_seed(1))
SIZES = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8}
LLAMA = {"architecture": "LlamaForCausalLM"}


def renamed(rename: Callable[[str], str]) -> Change:
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


def mutate(folder: Path, change: Change | None = None, **config: Any) -> Path:
    """Change tensors, and fields of config.json; ... leaves one out."""
    if change is not None:
        path = folder / "model.safetensors"
        changed = {name: tensor.clone() for name, tensor in change(load_file(path)).items()}
        save_file(changed, path, metadata={"format": "pt"})
    content = {**json.loads((folder / "config.json").read_bytes()), **config}
    kept = {name: value for name, value in content.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@torch.no_grad()
def published_logits(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    logits: torch.Tensor = model.eval()(IDS, use_cache=False).logits
    return logits


@torch.no_grad()
def our_logits(folder: Path) -> torch.Tensor:
    with Checkpoint.open(folder) as checkpoint:
        model = load_reference(checkpoint.config, checkpoint)
    logits: torch.Tensor = model(IDS, torch.ones_like(IDS), model.empty_cache(2))[0]
    return logits


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= BOUND


WRAPPED: dict[str, Callable[[str], str]] = {
    "none": lambda name: name.removeprefix("model."),
    "compiled": lambda name: f"_orig_mod.{name}",
    "data parallel, compiled": lambda name: f"module._orig_mod.{name}",
    "compiled layers": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "sharded": lambda name: name.replace("layers.1.", "layers.1._fsdp_wrapped_module."),
    "PEFT": lambda name: f"base_model.model.{name}",
    "PEFT in a trainer": lambda name: f"module.base_model.model.{name}",
    "of images and text": lambda name: f"language_model.{name}",
    "of images and text, new": lambda name: name.replace("model.", "model.language_model.", 1),
    "unknown": lambda name: f"policy.network.{name}",
}


@pytest.mark.situation(
    "Tensor names with the prefix of PEFT, torch.compile, FSDP, a trainer or an image model, or with none",
    package="transformers",
)
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_of_every_wrapper_are_read_and_said(
    tiny_checkpoint: Write, wrapper: str, tie: bool
) -> None:
    folder = tiny_checkpoint(tie=tie)
    with Checkpoint.open(folder) as expected:
        assert expected.notes == ()
        mutate(folder, renamed(WRAPPED[wrapper]))
        with Checkpoint.open(folder) as found:
            embedding = WRAPPED[wrapper]("model.embed_tokens.weight")
            is_usual = embedding == "model.embed_tokens.weight"
            assert ([embedding in note for note in found.notes] or [is_usual]) == [True]
            for name in expected.parameters:
                np.testing.assert_array_equal(found.read(name), expected.read(name))


def twice(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, **renamed(lambda name: f"ema.{name}")(tensors)}


def two_heads(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "model.lm_head.weight": tensors["lm_head.weight"]}


def half_compiled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "_orig_mod.lm_head.weight": tensors["lm_head.weight"]}


def unmerged(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    adapted = renamed(lambda n: n.replace("q_proj.weight", "q_proj.base_layer.weight"))(tensors)
    return {**adapted, "model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(2, 64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (twice, r"the model 2 times, its tensors begin with 'ema\.model\.' and with 'model\.'"),
        (two_heads, r"lm_head\.weight and model\.lm_head\.weight are both there"),
        (half_compiled, r"lm_head\.weight are one tensor by their names, expected it once"),
        (unmerged, r"belongs to a LoRA adapter that is not merged.* --adapter"),
        (
            renamed(lambda name: name.replace("model.layers", "transformer.h")),
            r"model\.layers\.0\..* is missing .*\(other tensors there: lm_head\.weight, \.\.\.\)",
        ),
        (
            renamed(lambda name: f"net.{name}" if "layers.1" in name else name),
            r"model\.layers\.1\..* is missing \(9 missing in all\).*net\.model\.layers\.1",
        ),
    ],
)
def test_names_that_are_not_one_whole_model_are_refused(
    tiny_checkpoint: Write, change: Change, message: str
) -> None:
    folder = mutate(tiny_checkpoint(), change)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


def base_model(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    kept = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    return renamed(lambda name: name.removeprefix("model."))(kept)


def doubled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


def with_biases(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    biases = {
        name.removesuffix("weight") + "bias": torch.zeros(len(tensor))
        for name, tensor in tensors.items()
        if "_proj" in name
    }
    return {**tensors, **biases}


def with_buffers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "masked_bias")
    inner = {f"model.layers.0.self_attn.{name}": torch.ones(8) for name in names}
    return {**tensors, **inner, "model.rotary_emb.inv_freq": torch.ones(8)}


BOTH_BIASES = {"attention_bias": True, "mlp_bias": True}
LOADED: dict[str, tuple[dict[str, Any], Change | None, dict[str, Any]]] = {
    "no architectures, Mistral": ({}, None, {"architectures": ...}),
    "no architectures, Llama": (LLAMA, None, {"architectures": ...}),
    "the class of a model that FSDP sharded": (
        {},
        None,
        {"architectures": ["FSDPMistralForCausalLM"]},
    ),
    "a base model": ({"tie": True}, base_model, {"architectures": ["MistralModel"]}),
    "a base model, Llama": ({**LLAMA, "tie": True}, base_model, {"architectures": ["LlamaModel"]}),
    "float64": (SIZES, doubled, {}),
    "buffers": ({}, with_buffers, {}),
    "biases that are zero": ({}, with_biases, {}),
    "biases that are zero, declared": (LLAMA, with_biases, BOTH_BIASES),
    "biases that are declared and not there": (LLAMA, None, BOTH_BIASES),
}


@pytest.mark.situation(
    "No `architectures`; a base model; float64; buffers; biases that are zero",
    package="transformers",
)
@pytest.mark.parametrize("situation", LOADED)
def test_what_transformers_loads_gives_its_logits(tiny_checkpoint: Write, situation: str) -> None:
    options, change, config = LOADED[situation]
    folder = mutate(tiny_checkpoint(**options), change, **config)
    assert_equal(our_logits(folder), published_logits(folder))


def test_base_model_without_a_tied_head_is_refused(tiny_checkpoint: Write) -> None:
    folder = mutate(tiny_checkpoint(), base_model, architectures=["MistralModel"])
    message = r"lm_head\.weight is missing and all others are there, .*; save the model from AutoM"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)
    mutate(folder, tie_word_embeddings=True)  # the other way out that the message names
    assert_equal(our_logits(folder), published_logits(folder))


QLORA = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def test_description_of_quantized_weights_that_are_float_is_ignored_and_said(
    tiny_checkpoint: Write,
) -> None:
    folder = tiny_checkpoint()
    expected = published_logits(folder)
    mutate(folder, quantization_config=QLORA)
    with Checkpoint.open(folder) as checkpoint:
        (note,) = checkpoint.notes
        assert "quantization_config (bitsandbytes) is ignored: all weights are float" in note
        assert "quantization_config" not in (checkpoint.config_json() or {})
    assert_equal(our_logits(folder), expected)


UP = "model.layers.0.mlp.up_proj"
CODES: list[tuple[dict[str, torch.Tensor], dict[str, Any], str]] = [
    (
        {
            f"{UP}.weight": torch.zeros(4096, 1, dtype=torch.uint8),
            f"{UP}.weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8),
        },
        QLORA,
        r"by bitsandbytes, 4 bits, expected float weights, or float8 with scales; load it with .* model\.dequantize\(\)",
    ),
    (
        {f"{UP}.weight": torch.zeros(128, 64, dtype=torch.int8), f"{UP}.SCB": torch.ones(128)},
        QLORA,
        r"SCB is quantized by bitsandbytes, 8 bits",
    ),
    (
        {f"{UP}.qweight": torch.zeros(8, 128, dtype=torch.int32)},
        {"quant_method": "awq"},
        r"qweight is quantized by AWQ.*; export the float model",
    ),
    (
        {f"{UP}.g_idx": torch.zeros(64, dtype=torch.int32)},
        {"quant_method": "gptq"},
        r"quantized by GPTQ",
    ),
    (
        {f"{UP}.weight_packed": torch.zeros(128, 8, dtype=torch.int32)},
        {"quant_method": "compressed-tensors"},
        r"by compressed-tensors, packed integers",
    ),
    (
        {
            f"{UP}.weight_packed": torch.zeros(128, 32, dtype=torch.uint8),
            f"{UP}.weight_scale": torch.ones(128, 4).to(torch.float8_e4m3fn),
            f"{UP}.weight_global_scale": torch.ones(1),
        },
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        r"up_proj\.weight_packed is quantized by compressed-tensors in the format "
        r"'nvfp4-pack-quantized', expected float weights, or float8 with scales; export the float",
    ),
    (
        {
            f"{UP}.weight": torch.zeros(128, 32, dtype=torch.uint8),
            f"{UP}.weight_scale": torch.ones(128, 4).to(torch.float8_e4m3fn),
            f"{UP}.weight_scale_2": torch.ones(()),
        },
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        r"up_proj\.weight_scale_2 is quantized by ModelOpt, NVFP4, expected float weights, or",
    ),
    (
        {f"{UP}.weight": torch.zeros(128, 64, dtype=torch.int8)},
        {},
        r"up_proj\.weight is of type I8, expected one of F32",
    ),
]


@pytest.mark.parametrize(("tensors", "config", "message"), CODES)
def test_weights_that_are_quantized_are_refused_by_the_tools_name(
    tiny_checkpoint: Write, tensors: dict[str, torch.Tensor], config: dict[str, Any], message: str
) -> None:
    def change(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**{name: t for name, t in own.items() if f"{UP}." not in name}, **tensors}

    folder = mutate(tiny_checkpoint(), change, quantization_config=config)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


@pytest.mark.parametrize("method", ["bitnet", "torchao", 3])
def test_a_method_that_may_quantize_float_weights_while_it_runs_is_refused(
    tiny_checkpoint: Write, method: object
) -> None:
    folder = mutate(tiny_checkpoint(), quantization_config={"quant_method": method})
    with pytest.raises(CheckpointError, match=rf"names the method '?{method}'?, which may change"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (torch.zeros(128, dtype=torch.int32), "bias is of type I32, expected one of F32"),
        (torch.zeros(0, 4), r"bias has shape \(0, 4\), expected one number for each row"),
        (torch.ones(128), "bias is not zero"),
    ],
)
def test_a_bias_that_is_none_is_refused(
    tiny_checkpoint: Write, bias: torch.Tensor, message: str
) -> None:
    folder = mutate(tiny_checkpoint(), lambda own: {**own, f"{UP}.bias": bias})
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


def test_too_large_float64_is_named_on_reading(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    mutate(
        folder,
        lambda own: {**own, f"{UP}.weight": torch.full((128, 64), 1e300, dtype=torch.float64)},
    )
    with (
        Checkpoint.open(folder) as checkpoint,
        pytest.raises(CheckpointError, match=r"up_proj\.weight holds 8192 values that are NaN or"),
    ):
        checkpoint.read("layers.0.mlp.up.weight")
