"""Stop strings in text that comes in pieces."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from tramontane.runtime.decoding.stop_strings import StopStrings
from tramontane.runtime.errors import ContractError


def pushed(strings: list[str], pieces: list[str]) -> tuple[str, str | None]:
    """The text that is handed on, which never has a stop string's beginning that then is one."""
    stops = StopStrings(strings)
    text = "".join(stops.push(piece) for piece in pieces)
    return text + stops.flush(), stops.found


@pytest.mark.parametrize(
    ("strings", "text", "expected", "found"),
    [
        (["END"], "the END of", "the ", "END"),
        (["END"], "the EN", "the EN", None),
        (["aab"], "aaab", "a", "aab"),
        (["abcd", "bc"], "abcd", "a", "bc"),  # what ends first
        (["bc", "abc"], "abc", "", "abc"),  # of what ends there, the longest
        (["\n\n"], "a\n\n\n", "a", "\n\n"),
        (["é→"], "caf é→", "caf ", "é→"),
        ([], "anything", "anything", None),
    ],
)
def test_the_text_ends_before_a_stop_string_however_it_is_cut(
    strings: list[str], text: str, expected: str, found: str | None
) -> None:
    for count in range(min(len(text), 4)):
        for cuts in itertools.combinations(range(1, len(text)), count):
            pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
            assert pushed(strings, pieces) == (expected, found)


def test_it_finds_what_a_regular_expression_finds() -> None:
    draw = np.random.default_rng(1)
    for _ in range(500):
        text = "".join(draw.choice(list("ab\n"), 30))
        strings = ["".join(draw.choice(list("ab\n"), int(draw.integers(1, 5)))) for _ in range(3)]
        ends = [found.end() for s in strings if (found := re.search(re.escape(s), text))]
        end = min(ends, default=None)
        expected = text
        if end is not None:
            expected = text[: end - max(len(s) for s in strings if text[:end].endswith(s))]
        cuts = sorted({0, 30, *(int(cut) for cut in draw.integers(1, 30, 6))})
        pieces = [text[a:b] for a, b in itertools.pairwise(cuts)]
        assert pushed(strings, pieces)[0] == expected


def test_text_is_held_back_no_longer_than_it_may_become_a_stop_string() -> None:
    stops = StopStrings(["\nUser:"])
    assert [stops.push(piece) for piece in ("a\n", "Us", "ing")] == ["a", "", "\nUsing"]


@pytest.mark.parametrize("strings", ["", ["a", ""], [3]])
def test_an_empty_stop_string_is_refused(strings: list[str]) -> None:
    with pytest.raises(ContractError, match=r"stop has .*; expected strings of one character"):
        StopStrings(strings)
