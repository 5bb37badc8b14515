"""Our PyTorch model has the logits of transformers, whole and step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from tramontane.export.cache_choice import GROWING, WINDOWED, CacheChoice
from tramontane.export.config import MistralConfig
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import read_config
from tramontane.export.model.load import load_reference
from tramontane.export.model.model import Mistral

from ...support.ropes import LLAMA3

Write = Callable[..., Path]
W = 8
LENGTHS = [1, W - 1, W, W + 1, 3 * W]
BOUND = 1e-4  # largest |difference| of two float32 logits
LLAMA = {"architecture": "LlamaForCausalLM"}
MINISTRAL = {"architecture": "MinistralForCausalLM", "sliding_window": W}
FULL, SLIDING = "full_attention", "sliding_attention"
QWEN2 = {"architecture": "Qwen2ForCausalLM"}
QWEN3 = {"architecture": "Qwen3ForCausalLM"}
WITH_WINDOW = {"use_sliding_window": True, "sliding_window": W}
SMOLLM3 = {"architecture": "SmolLM3ForCausalLM", "pad_token_id": 0, "bos_token_id": 1}
# Lengths cross the original one, as those of ``LLAMA3`` do.
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 16.0,
    "original_max_position_embeddings": 12,
}
MINISTRAL3 = {
    "architecture": "Ministral3ForCausalLM",
    "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
}
KINDS = [
    {},
    {"tie": True},
    {"sliding_window": None},
    {"num_key_value_heads": 4},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    {"rope_parameters": YARN, "sliding_window": None},
    {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
    LLAMA,
    {**LLAMA, "rope_parameters": LLAMA3},
    {**LLAMA, "tie": True},
    {**LLAMA, "num_key_value_heads": 4},
    MINISTRAL,
    {**MINISTRAL, "layer_types": [FULL, SLIDING]},
    {**MINISTRAL, "layer_types": [SLIDING, FULL], "tie": True},
    {**MINISTRAL3, "sliding_window": None},
    {**MINISTRAL3, "tie": True},
    QWEN2,
    {**QWEN2, **WITH_WINDOW, "max_window_layers": 1},
    QWEN3,
    {**QWEN3, **WITH_WINDOW, "layer_types": [SLIDING, FULL], "num_attention_heads": 2},
    {**SMOLLM3, "no_rope_layers": [1, 0]},
    {**SMOLLM3, **WITH_WINDOW, "no_rope_layers": [0, 1], "tie": True},
]


def load(
    folder: Path, config: MistralConfig | None = None, *, cache: CacheChoice = WINDOWED
) -> Mistral:
    checkpoint = Checkpoint.open(folder)
    return load_reference(config or checkpoint.config, checkpoint, cache)


def published_logits(folder: Path, ids: Tensor, **changes: Any) -> Tensor:
    """What transformers' own model gives, by its plainest attention."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **changes
    )
    with torch.no_grad():
        logits: Tensor = model.eval()(ids, use_cache=False).logits
    return logits


@torch.no_grad()
def our_logits(model: Mistral, ids: Tensor, pieces: list[int] | None = None) -> Tensor:
    past, end, logits = model.empty_cache(len(ids)), 0, []
    for size in pieces or [ids.shape[1]]:
        start, end = end, end + size
        mask = torch.ones(len(ids), end, dtype=torch.int64)
        new, past = model(ids[:, start:end], mask, past)
        logits.append(new)
    return torch.cat(logits, dim=1)


def tokens(length: int, vocab_size: int = 2048) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(vocab_size, (2, length), generator=generator)


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_logits_are_those_of_transformers(tiny_checkpoint: Write, kind: dict[str, Any]) -> None:
    folder = tiny_checkpoint(**kind)
    model = load(folder)
    for length in LENGTHS:
        ids = tokens(length)
        assert difference(our_logits(model, ids), published_logits(folder, ids)) <= BOUND


@pytest.mark.parametrize(
    "kind",
    [
        {},
        LLAMA,
        {**MINISTRAL, "layer_types": [FULL, SLIDING]},
        {**QWEN2, **WITH_WINDOW, "max_window_layers": 1},
        {**QWEN3, **WITH_WINDOW, "max_window_layers": 0},
        {**SMOLLM3, **WITH_WINDOW, "no_rope_layers": [1, 0]},
    ],
    ids=str,
)
def test_stepping_gives_the_logits_of_transformers(
    tiny_checkpoint: Write, kind: dict[str, Any]
) -> None:
    folder, ids = tiny_checkpoint(**kind), tokens(5 * W)
    model, expected = load(folder), published_logits(folder, tokens(5 * W))
    for pieces in ([W + 1] + [1] * (4 * W - 1), [3, W + 2, 3 * W - 5 + W]):
        assert difference(our_logits(model, ids, pieces), expected) <= BOUND


def test_cache_that_grows_gives_the_same_logits_and_keeps_every_row(
    tiny_checkpoint: Write,
) -> None:
    folder, ids = tiny_checkpoint(), tokens(5 * W)
    model = load(folder, cache=GROWING)
    expected = published_logits(folder, ids)
    for pieces in ([5 * W], [W + 1] + [1] * (4 * W - 1)):
        assert difference(our_logits(model, ids, pieces), expected) <= BOUND
    with torch.no_grad():
        _, past = model(ids, torch.ones_like(ids), model.empty_cache(len(ids)))
    assert {tuple(x.shape) for pair in past for x in pair} == {(2, 2, 5 * W, 16)}


@pytest.mark.parametrize(
    "fault",
    [
        {"sliding_window": W + 1},
        {"sliding_window": W - 1},
        {"rope_theta": 9000.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 1.1}},
        {"rope_scaling": {**YARN, "attention_factor": 1.0}},
    ],
    ids=str,
)
def test_planted_fault_fails_the_same_bound(tiny_checkpoint: Write, fault: dict[str, Any]) -> None:
    folder, ids = tiny_checkpoint(), tokens(3 * W)
    wrong = load(folder, dataclasses.replace(read_config(folder), **fault))
    assert difference(our_logits(wrong, ids), published_logits(folder, ids)) > BOUND


def test_trained_model_gives_the_logits_of_transformers_at_three_windows(stdlib_5m: Path) -> None:
    trained = read_config(stdlib_5m)
    for window in (16, trained.sliding_window, None):
        model = load(stdlib_5m, dataclasses.replace(trained, sliding_window=window))
        ids = tokens(3 * (window or 64))
        expected = published_logits(stdlib_5m, ids, sliding_window=window)
        assert difference(our_logits(model, ids), expected) <= BOUND


def test_published_llama_gives_the_logits_of_transformers(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    ids = tokens(48, vocab_size=512)
    assert difference(our_logits(load(folder), ids), published_logits(folder, ids)) <= BOUND
