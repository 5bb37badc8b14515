"""The lookup of predictions: what followed the last tokens before, kept token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tramontane.runtime.speculation.prompt_lookup import FEWEST, PromptLookup

few_tokens = st.binary(max_size=60).map(lambda values: [value % 4 for value in values])
without_limits = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@without_limits
@given(few_tokens, few_tokens)
def test_a_prediction_follows_the_tokens_that_it_says_were_matched(
    before: list[int], after: list[int]
) -> None:
    lookup, tokens = PromptLookup(np.array(before, np.int64)), [*before]
    for token in [*after, 0]:
        predicted = lookup.next(4)
        assert bool(predicted) == lookup.predicts
        if predicted and lookup.matched:
            text = ",".join(map(str, tokens))
            matched = ",".join(map(str, tokens[-lookup.matched :]))
            assert f"{matched},{predicted[0]}" in text
        assert lookup.append(token) == (predicted[:1] == [token])
        tokens.append(token)


@without_limits
@given(few_tokens, few_tokens)
def test_after_a_surprise_it_is_the_last_place_of_the_last_tokens(
    before: list[int], after: list[int]
) -> None:
    lookup, tokens = PromptLookup(np.array(before, np.int64)), [*before]
    for token in after:
        if lookup.append(token):
            tokens.append(token)
            continue
        tokens.append(token)
        ends = range(FEWEST, len(tokens))
        found = [end for end in ends if tokens[end - FEWEST : end] == tokens[-FEWEST:]]
        assert lookup.matched == (FEWEST if found else 0)
        if found:
            assert lookup.next(1) == [tokens[found[-1]]]


@without_limits
@given(few_tokens, st.lists(few_tokens, max_size=4))
def test_tokens_added_in_any_parts_are_those_read_at_once(
    before: list[int], parts: list[list[int]]
) -> None:
    lookup = PromptLookup(np.array(before, np.int64))
    for part in parts:
        lookup.extend(np.array(part, np.int64))
    whole = [*before, *(token for part in parts for token in part)]
    at_once = PromptLookup(np.array(whole, np.int64))
    assert lookup.tokens == len(whole)
    assert lookup._places == at_once._places
    assert (lookup.matched, lookup.next(4)) == (at_once.matched, at_once.next(4))


def test_tokens_read_at_once_and_one_by_one_are_found_alike() -> None:
    tokens = np.random.default_rng(0).integers(0, 4, 300)
    one_by_one = PromptLookup(tokens[:0])
    for token in tokens.tolist():
        one_by_one.append(token)
    for token in tokens[:9].tolist():  # after which either may follow another place
        one_by_one.append(token)
    at_once = PromptLookup(np.concatenate([tokens, tokens[:9]]))
    assert one_by_one._places == at_once._places


@pytest.mark.parametrize(
    ("tokens", "count", "expected"),
    [
        ([5, 6, 7, 8, 9], 9, []),
        ([5, 6, 7, 8, 9, 5, 6, 7], 2, [8, 9]),
        ([5, 6, 7, 8, 9, 5, 6, 7, 4, 5, 6, 7], 2, [4, 5]),  # of two places, the later
        ([5, 6, 7, 5, 6, 7], 5, [5, 6, 7, 5, 6]),  # what repeats goes on repeating
        ([5, 6, 7, 8, -1, -1, 5, 6, 7], 4, [8]),  # skipped tokens are not known
        ([5, 6, 7, -1, 5, 6, 7], 4, []),
        ([5, 6], 4, []),
        ([], 4, []),
    ],
)
def test_what_is_predicted(tokens: list[int], count: int, expected: list[int]) -> None:
    assert PromptLookup(np.array(tokens, np.int64)).next(count) == expected


def test_a_copy_goes_on_after_a_token_that_was_replaced() -> None:
    lookup = PromptLookup(np.array([1, 2, 3, 4, 5, 6, 7, 1, 2, 3]))
    assert lookup.append(4)
    assert not lookup.append(9)  # for 5
    assert lookup.matched == 0
    assert lookup.next(2) == [6, 7]
    assert lookup.append(6)
    assert lookup.matched == 1
