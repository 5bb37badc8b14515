"""Models beside Mistral 7B, made by transformers: logits, gate and planted faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import options_named
from tramontane.faults.planted import in_optional_parts, in_rope
from tramontane.faults.planting import Fault
from tramontane.faults.trial import Trial
from tramontane.graphs.writing.external_data import ALIGNMENT_BYTES
from tramontane.runtime.contract import DATA_FILE
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.session import Session
from tramontane.validate.measurement import GateOptions
from tramontane.validate.run_gate import require_parity, validate
from tramontane.validate.sequences.tokens import SAMPLE

from ..support.neighbours import BOUND, KINDS, LENGTH, W
from ..support.ropes import YARN

OWN_FAULTS = [*in_optional_parts.FAULTS, *in_rope.FAULTS]
RECIPES = [
    *("int8-ort", "int8-smooth-ort", "int8-small-ort", "int8-dynamic-ort", "int8-web"),
    *("int4-ort", "int4-small-ort", "int4-rtn-ort", "int4-rtn-small-ort", "int4-portable"),
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(request.param, rms_norm_eps=1e-5, **KINDS[request.param])


@pytest.fixture(scope="module")
def trial(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(folder=tmp_path_factory.mktemp("artifacts"), model=model)


@pytest.mark.parametrize("target", ["ort", "portable", "web"])
def test_logits_are_those_of_transformers(trial: Trial, target: str) -> None:
    trial.export(f"fp32-{target}")
    published = transformers.AutoModelForCausalLM.from_pretrained(
        trial.model, attn_implementation="eager"
    )
    ids = np.random.default_rng(0).integers(3, 2048, LENGTH)
    with torch.no_grad():
        expected = published.eval()(torch.from_numpy(ids)[None]).logits[0].numpy()
    session = Session.load(trial.folder / f"fp32-{target}", threads=1)
    for first, chunk in ((LENGTH, LENGTH), (W + 3, 5)):
        session.reset()
        found = [session.prefill(ids[:first].tolist(), all_logits=True, chunk=chunk)]
        found += [session.step(int(token))[None].copy() for token in ids[first:]]
        assert float(np.abs(np.concatenate(found) - expected).max()) <= BOUND


MINISTRAL_3 = {**YARN, "rope_theta": 1e6, "original_max_position_embeddings": 16384}
DEVSTRAL_2 = {**MINISTRAL_3, "beta_fast": 4.0, "mscale_all_dim": 0.0}
# Devstral 2's two sizes.
LARGER = {**DEVSTRAL_2, "factor": 48.0, "original_max_position_embeddings": 8192}
LARGEST = {**DEVSTRAL_2, "factor": 64.0, "original_max_position_embeddings": 4096}
AS_PUBLISHED = {
    "Ministral 3": MINISTRAL_3,
    "Devstral 2, factor 48": LARGER,
    "Devstral 2, factor 64": LARGEST,
    "Devstral 2, factor 48, beta 0": {**LARGER, "llama_4_scaling_beta": 0.0},
    "Devstral 2, factor 64, beta 0": {**LARGEST, "llama_4_scaling_beta": 0.0},
}


@pytest.mark.parametrize("rope", AS_PUBLISHED.values(), ids=AS_PUBLISHED)
def test_logits_past_the_published_original_length_are_those_of_transformers(
    rope: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    original = rope["original_max_position_embeddings"]
    folder = tiny_checkpoint(
        "Ministral3ForCausalLM",
        **{**KINDS["Ministral3ForCausalLM"], "rope_parameters": rope},
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=int(rope["factor"] * original),
    )
    export_checkpoint(folder, tmp_path / "artifact", options_named("fp32-ort"))
    ids = np.random.default_rng(0).integers(3, 2048, original + LENGTH)
    published = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        expected = published.eval()(torch.from_numpy(ids)[None]).logits[0].numpy()
    session = Session.load(tmp_path / "artifact", threads=1)
    whole = len(ids) - LENGTH // 2  # the others come one by one
    found = [session.prefill(ids[:whole].tolist(), all_logits=True)]
    found += [session.step(int(token))[None].copy() for token in ids[whole:]]
    assert float(np.abs(np.concatenate(found) - expected).max()) <= BOUND


@pytest.mark.parametrize("recipe", ["fp32-portable", *RECIPES, "int8-ort-int8"])
def test_gate_passes_and_sees_every_part(trial: Trial, recipe: str) -> None:
    trial.export(recipe)
    with Checkpoint.open(trial.model) as checkpoint:
        options = GateOptions(store=trial.folder / "store")
        verdict = validate(trial.folder / recipe, checkpoint, options)
        config = checkpoint.config
    failed = [check.name for check in verdict.measurement.checks if check.failures]
    assert failed == []
    assert verdict.measurement.layer_checks is not None
    names = {one.name for one in verdict.measurement.layer_checks.findings}
    assert any(name.endswith(" bias") for name in names) == config.has_qkv_bias
    assert ({"query norm", "key norm"} <= names) == config.has_head_norms


@pytest.mark.parametrize("recipe", ["fp32-ort", "int8-ort", "int8-web", "fp32-portable"])
def test_planned_bytes_of_weights_are_those_that_are_written(trial: Trial, recipe: str) -> None:
    trial.export(recipe)
    written = (trial.folder / recipe / DATA_FILE).stat().st_size
    planned = read_manifest(trial.folder / recipe).memory.weights_bytes
    assert planned == pytest.approx(written, abs=ALIGNMENT_BYTES)


def faults() -> list[Any]:
    return [pytest.param(fault, id=fault.name) for fault in OWN_FAULTS]


@pytest.mark.parametrize("fault", faults())
def test_planted_fault_of_a_part_is_caught_and_explained(trial: Trial, fault: Fault) -> None:
    with Checkpoint.open(trial.model) as checkpoint:
        if not fault.fits(checkpoint):
            pytest.skip("the model has no such part")
    trial.export(fault.recipe)
    outcome = trial.run(fault)
    assert outcome.is_caught
    assert outcome.is_explained, (outcome.place, outcome.cause)


def test_every_kind_has_two_faults_of_its_own(model: Path) -> None:
    with Checkpoint.open(model) as checkpoint:
        assert sum(fault.fits(checkpoint) for fault in OWN_FAULTS) >= 2


# Source: Qwen2's tokenizer.json: the split of a text before byte-level BPE, one digit at a time.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_qwen_with_its_kind_of_tokenizer_is_exported_and_proved(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN_SPLIT), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(SAMPLE.read_text(encoding="utf-8").splitlines(), trainer)
    made.add_special_tokens(ends)
    folder = tiny_checkpoint(
        "Qwen2ForCausalLM",
        vocab_size=made.get_vocab_size(),
        eos_token_id=made.token_to_id(ends[0]),
    )
    (folder / "tokenizer.model").unlink()
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": ends[0], "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    options = options_named("int8-ort")
    manifest = export_checkpoint(folder, tmp_path / "out", options, gate=require_parity)
    assert manifest.vocabulary.kind == "tokenizers"
    assert not manifest.vocabulary.prompt_start
    session = Session.load(tmp_path / "out", threads=1)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("def f(x):\n    return 12 + x", " caf\u00e9 \u4f60\u597d", "it's"):
        assert session.tokenizer.encode(text) == theirs(text)["input_ids"]
