"""Processors give what those of transformers give, on random logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tramontane.runtime import Sampler
from tramontane.runtime.decoding import processors as ours
from tramontane.runtime.decoding.history import History
from tramontane.runtime.decoding.processors import fewest
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import logits_process as theirs

from .sampler_settings import SamplerSettings

PROMPT, NEW = [5, 9, 900, 5, 77], [9, 12, 12, 3]
Ours = Callable[[np.ndarray, History], np.ndarray]

PAIRS: dict[str, tuple[Ours, Callable[[], theirs.LogitsProcessor]]] = {}
for t in (0.1, 0.8, 1.7):
    PAIRS[f"temperature {t}"] = (
        lambda x, _, t=t: ours.divide_by_temperature(x, t),
        partial(theirs.TemperatureLogitsWarper, t),
    )
for k in (1, 40, 2999, 3000, 5000):
    PAIRS[f"top_k {k}"] = (
        lambda x, _, k=k: ours.keep_top_k(x, k),
        partial(theirs.TopKLogitsWarper, k),
    )
for p in (0.01, 0.3, 0.9, 0.99):
    PAIRS[f"top_p {p}"] = (
        lambda x, _, p=p: ours.keep_top_p(x, p),
        partial(theirs.TopPLogitsWarper, p),
    )
    PAIRS[f"min_p {p}"] = (
        lambda x, _, p=p: ours.keep_min_p(x, p),
        partial(theirs.MinPLogitsWarper, p),
    )
    PAIRS[f"typical_p {p}"] = (
        lambda x, _, p=p: ours.keep_typical(x, p),
        partial(theirs.TypicalLogitsWarper, p),
    )
for r in (0.7, 1.3):
    PAIRS[f"repetition_penalty {r}"] = (
        lambda x, history, r=r: ours.penalize_repetition(x, history, r),
        partial(theirs.RepetitionPenaltyLogitsProcessor, r),
    )
PAIRS["logit_bias"] = (
    lambda x, _: ours.add_bias(x, {3: 2.5, 900: -np.inf}),
    lambda: theirs.SequenceBiasLogitsProcessor([[[3], 2.5], [[900], -np.inf]]),
)


def history() -> History:
    made = History(PROMPT)
    for token in NEW:
        made.append(token)
    return made


def logits(spread: float) -> np.ndarray:
    return (np.random.default_rng(int(spread * 7)).standard_normal(3000) * spread).astype("f4")


def agree(found: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spread", [0.3, 3.0, 20.0])
@pytest.mark.parametrize("name", PAIRS)
def test_each_gives_what_the_one_of_transformers_gives(name: str, spread: float) -> None:
    process, make = PAIRS[name]
    scores = logits(spread)
    expected = make()(torch.tensor([[*PROMPT, *NEW]]), torch.from_numpy(scores)[None].clone())
    agree(process(scores.astype(np.float64), history()), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
        {"repetition_penalty": 1.2, "temperature": 1.4, "min_p": 0.05},
        {"temperature": 0.9, "typical_p": 0.8, "top_k": 400, "repetition_penalty": 1.1},
        {"temperature": 1.1, "top_k": 300, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9},
        {"logit_bias": {9: 2.5, 900: -1.5}, "repetition_penalty": 1.3, "temperature": 0.9},
    ],
)
def test_settings_apply_in_the_order_of_transformers(settings: SamplerSettings) -> None:
    class Config:  # what the function below asks of a model
        is_encoder_decoder = False

    class Model(GenerationMixin):
        config = Config()

    theirs_too: dict[str, Any] = {"top_k": 0, **settings}
    if bias := theirs_too.pop("logit_bias", None):
        theirs_too["sequence_bias"] = [[[token], added] for token, added in bias.items()]
    asked = GenerationConfig(**theirs_too, do_sample=True)
    asked._eos_token_tensor = None
    chain = Model()._get_logits_processor(asked, input_ids_seq_length=1, device="cpu")
    assert len(chain) == len(settings)
    for spread in (0.5, 4.0):
        scores = logits(spread)
        expected = chain(torch.tensor([[*PROMPT, *NEW]]), torch.from_numpy(scores)[None].clone())
        found = scores.astype(np.float64)
        for process in Sampler(**settings)._chain():
            found = process(found, history())
        agree(found, expected)


def test_penalties_of_presence_and_frequency_are_those_of_openais_formula() -> None:
    scores = logits(3).astype(np.float64)
    found = ours.penalize_presence_and_frequency(scores, history(), presence=0.5, frequency=0.25)
    expected = scores.copy()
    for token in range(3000):  # mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence
        expected[token] -= NEW.count(token) * 0.25 + float(NEW.count(token) > 0) * 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found != scores).sum() == len(set(NEW))  # of the prompt none


@pytest.mark.parametrize("name", PAIRS)
def test_none_changes_the_logits_that_it_is_given(name: str) -> None:
    scores = logits(3).astype(np.float64)
    before = scores.copy()
    PAIRS[name][0](scores, history())
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("name", [name for name in PAIRS if "penalty" not in name])
def test_a_token_that_is_ruled_out_stays_so(name: str) -> None:
    scores = logits(3).astype(np.float64)
    scores[scores > 2] = -np.inf
    assert np.isneginf(PAIRS[name][0](scores, history()))[np.isneginf(scores)].all()


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 30.0])
@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.999999])
def test_top_p_over_a_large_vocabulary_keeps_what_a_full_sort_would(
    spread: float, top_p: float
) -> None:
    logits = (np.random.default_rng(1).standard_normal(5000) * spread).astype(np.float32).round(2)
    probabilities = np.exp(logits.astype(np.float64) - logits.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    expected = order[probabilities[order].cumsum() - probabilities[order] < top_p]
    np.testing.assert_array_equal(fewest(probabilities, top_p), expected)
