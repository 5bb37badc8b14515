"""Which token next?"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from tramontane.runtime.decoding.sampler import Sampler, fewest
from tramontane.runtime.errors import ContractError

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def shares(sampler: Sampler, draws: int = 4000) -> dict[int, float]:
    choose = sampler.start()
    counts = Counter(choose(LOGITS) for _ in range(draws))
    return {token: count / draws for token, count in counts.items()}


def test_greedy_takes_the_first_of_equals() -> None:
    assert Sampler().start()(np.array([1, 3, 3, 2], np.float32)) == 1


def test_tokens_come_as_often_as_they_are_likely() -> None:
    found = shares(Sampler(temperature=1))
    assert all(math.isclose(found[i], p, abs_tol=0.03) for i, p in enumerate([0.1, 0.4, 0.2, 0.3]))


def test_top_k_keeps_the_likeliest() -> None:
    assert set(shares(Sampler(temperature=1, top_k=2))) == {1, 3}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, {1}), (0.5, {1, 3}), (0.8, {1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: set[int]) -> None:
    assert set(shares(Sampler(temperature=1, top_p=top_p))) == kept


def test_low_temperature_comes_close_to_greedy() -> None:
    assert set(shares(Sampler(temperature=1e-3))) == {1}


def test_an_impossible_token_is_never_chosen() -> None:
    logits = np.array([-np.inf, 0, -np.inf, 0, -np.inf], np.float32)
    choose = Sampler(temperature=1, top_k=4).start()
    assert {choose(logits) for _ in range(500)} == {1, 3}


def test_a_seed_fixes_the_choices_and_another_changes_them() -> None:
    first, second, other = (Sampler(temperature=1, seed=seed).start() for seed in (7, 7, 8))
    choices = [first(LOGITS) for _ in range(50)]
    assert choices == [second(LOGITS) for _ in range(50)]
    assert choices != [other(LOGITS) for _ in range(50)]


def test_nan_logits_are_refused() -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(ContractError, match="logits: entry 2 is not a number"):
            Sampler(temperature=temperature).start()(np.array([0, 1, np.nan, 5], np.float32))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; expected 0 or more"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1; expected 0"),
        ({"top_p": 0.0}, "top_p is 0.0; expected more than 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Sampler(**setting)  # type: ignore[arg-type]


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
