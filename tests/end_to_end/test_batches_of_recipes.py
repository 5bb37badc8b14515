"""Prompts continued together are what each is alone, in graphs of every kind of cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.export.build import export_checkpoint
from tramontane.export.options import ExportOptions
from tramontane.runtime import Model, Sampler

from .test_sessions_in_any_order import RECIPES

# Before, at and after evictions, which come after 24 tokens and more.
LENGTHS = [1, 7, 8, 23, 24, 25, 60]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*RECIPES, "int8-dynamic"])
def test_together_each_prompt_is_continued_as_alone(
    two_layers: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path, recipe: str
) -> None:
    options = RECIPES[recipe][0] if recipe in RECIPES else {"quant": recipe}
    checkpoint = tiny_checkpoint(sliding_window=None) if "window" in options else two_layers
    asked: dict[str, Any] = {"quant": "fp32", "target": "ort", **options}
    export_checkpoint(checkpoint, tmp_path / "artifact", ExportOptions(**asked))
    model = Model.load(tmp_path / "artifact", threads=1)
    numbers = np.random.default_rng(1)
    prompts = [numbers.integers(3, 2048, length).tolist() for length in LENGTHS]
    samplers = [Sampler(temperature=0.7, seed=length) for length in LENGTHS]
    made = model.generate_batch(prompts, sampler=samplers, max_new_tokens=80, logprobs=0).finish()
    for prompt, sampler, together in zip(prompts, samplers, made, strict=True):
        alone = model.generate(prompt, sampler=sampler, max_new_tokens=80, logprobs=0).finish()
        assert (together.tokens, together.text) == (alone.tokens, alone.text)
        for one, other in zip(together.logprobs, alone.logprobs, strict=True):
            assert abs(one.logprob - other.logprob) <= 1e-4
