"""Which token next?"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from tramontane.runtime.decoding.history import History
from tramontane.runtime.decoding.processors import Processor
from tramontane.runtime.decoding.sampler import Sampler
from tramontane.runtime.errors import ContractError

from .sampler_settings import SamplerSettings

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
        ({"min_p": -0.1}, "min_p is -0.1; expected 0 to 1"),
        ({"typical_p": 0.0}, "typical_p is 0.0; expected more than 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; expected a number above 0"),
        ({"presence_penalty": math.inf}, "presence_penalty is inf; expected a number"),
        ({"frequency_penalty": math.nan}, "frequency_penalty is nan; expected a number"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias of token -1 is 1.0; expected a token"),
        ({"logit_bias": {1: math.nan}}, "logit_bias of token 1 is nan"),
        ({"seed": -1}, "seed is -1"),
        # as a file of settings may have them
        ({"temperature": "0.7"}, "temperature is '0.7'; expected 0 or more"),
        ({"top_p": None}, "top_p is None; expected more than 0"),
        ({"top_k": 2.5}, "top_k is 2.5; expected a whole number, 0 or more"),
        ({"seed": 1.0}, "seed is 1.0; expected a whole number"),
        ({"seed": None}, "seed is None; expected 0 or more"),
        ({"seed": 10**400}, "seed is 10000"),
        ({"logit_bias": {"13": 1.0}}, "logit_bias of token '13' is 1.0; expected a token"),
        ({"logit_bias": {13: "1"}}, "logit_bias of token 13 is '1'; expected a token"),
        ({"processors": len}, "processors is <built-in .*; expected a list of functions"),
        ({"processors": ["len"]}, r"processors is \['len'\]; expected a list of functions"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Sampler(**setting)


def test_whole_numbers_and_tokens_of_numpy_are_settings() -> None:
    sampler = Sampler(top_k=np.int64(3), seed=np.uint8(4), logit_bias={np.int64(0): np.float32(9)})
    assert sampler.start()(LOGITS) == 0


def test_seeds_give_the_tokens_of_the_first_version() -> None:
    """Of the sampler that had temperature, top_k and top_p alone, written down before the others."""
    rows = (np.random.default_rng(12).standard_normal((12, 3000)) * 3).astype(np.float32)
    first: list[tuple[SamplerSettings, list[int]]] = [
        ({}, [1093, 2453, 1929, 2601, 2811, 2713, 1585, 1946, 2171, 1190, 2408, 1525]),
        (
            {"temperature": 1.0},
            [1815, 2453, 1681, 772, 405, 1146, 1305, 201, 134, 2983, 2408, 1525],
        ),
        (
            {"temperature": 0.7, "top_k": 40},
            [1093, 2453, 1929, 772, 1754, 1182, 1585, 201, 945, 2672, 2540, 1525],
        ),
        (
            {"temperature": 1.3, "top_p": 0.9},
            [2321, 2944, 1502, 43, 2811, 2396, 2720, 1946, 2171, 1878, 1582, 1732],
        ),
        (
            {"temperature": 0.8, "top_k": 100, "top_p": 0.6},
            [1093, 1463, 2476, 359, 2811, 2713, 1585, 1946, 2171, 1190, 2077, 1525],
        ),
    ]
    for settings, expected in first:
        choose = Sampler(seed=5, **settings).start()
        assert [choose(row) for row in rows] == expected


def test_tokens_as_likely_as_the_last_of_top_k_are_kept() -> None:
    logits = np.array([1, 2, 1, 0, 1], np.float32)
    choose = Sampler(temperature=1, top_k=2).start()
    assert {choose(logits) for _ in range(200)} == {0, 1, 2, 4}


def test_penalties_and_bias_change_the_greedy_choice() -> None:
    logits = np.array([1.0, 3.0, 2.9, 2.8], np.float32)
    penalties: list[SamplerSettings] = [
        {"presence_penalty": 0.15},
        {"frequency_penalty": 0.15},
        {"repetition_penalty": 1.1},
    ]
    for settings in penalties:
        choose = Sampler(**settings).start()
        assert [choose(logits) for _ in range(2)] == [1, 2]
    assert Sampler(repetition_penalty=1.1).start([1, 2])(logits) == 3
    assert Sampler(presence_penalty=1).start([1, 2])(logits) == 1  # the answer's alone
    assert Sampler(logit_bias={1: -math.inf, 0: 5.0}).start()(logits) == 0


def test_an_apps_own_processor_sees_the_tokens_so_far_and_decides() -> None:
    seen: list[list[int]] = []

    def only_even(logits: np.ndarray, history: History) -> np.ndarray:
        seen.append(history.all_tokens.tolist())
        return np.where(np.arange(len(logits)) % 2, -np.inf, logits)

    for temperature in (0.0, 1.0):
        choose = Sampler(processors=[only_even], temperature=temperature).start([8])
        made = [choose(LOGITS) for _ in range(3)]
        assert set(made) <= {0, 2}
        assert seen[-3:] == [[8], [8, *made[:1]], [8, *made[:2]]]


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (lambda logits, _: logits[:2], r"float64 \(2,\), expected float64 \(4,\)"),
        (
            lambda *_: None,
            r"object \(\), expected float64 \(4,\); return the logits of all",
        ),
        (lambda logits, _: logits > 0, "bool"),
    ],
)
def test_what_is_no_row_of_logits_is_refused_of_a_processor(made: Processor, what: str) -> None:
    with pytest.raises(ContractError, match=f"processors: <lambda> returned {what}"):
        Sampler(processors=[made]).start()(LOGITS)


def test_a_processor_may_return_a_list() -> None:
    def make(*_: object) -> Any:
        return [0.0, 1.0, 9.0, 2.0]

    assert Sampler(processors=[make]).start()(LOGITS) == 2


def test_an_error_says_what_left_no_token() -> None:
    def none(logits: np.ndarray, history: History) -> np.ndarray:
        return np.full_like(logits, -np.inf)

    with pytest.raises(
        ContractError, match="every token was ruled out.*check logit_bias and proc"
    ):
        Sampler(processors=[none]).start()(LOGITS)


def test_a_bias_of_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ContractError, match="logit_bias has token 4; expected 0 to 3"):
        Sampler(logit_bias={4: 1.0}).start()(LOGITS)


@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler(temperature=1), Sampler(temperature=1, top_k=2)]
)
def test_an_infinite_logit_is_refused(sampler: Sampler) -> None:
    with pytest.raises(ContractError, match="logits: entry 1 is infinite, expected finite"):
        sampler.start()(np.array([0, np.inf, np.inf], np.float32))


def test_a_temperature_that_makes_logits_infinite_is_refused() -> None:
    with pytest.raises(ContractError, match="is infinite, .*a temperature nearer to 1"):
        Sampler(temperature=1e-320).start()(LOGITS - LOGITS.min() + 1)
