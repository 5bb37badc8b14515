"""Which rows of the cache hold which positions?"""

from __future__ import annotations

import doctest

import pytest
from tramontane.runtime import cache
from tramontane.runtime.cache import CacheLayout, default_rows
from tramontane.runtime.errors import ContractError


@pytest.mark.parametrize(("window", "rows"), [(1, 1), (4, 4), (4, 6), (8, 24), (5, 9)])
def test_formula_agrees_with_evicting_one_token_at_a_time(window: int, rows: int) -> None:
    layout = CacheLayout(window=window, rows=rows)
    held: list[int] = []
    for position in range(10 * rows):
        if len(held) == rows:
            held = held[rows - window + 1 :]
        held.append(position)
        assert layout.first(position + 1) == held[0]
        assert layout.held(position + 1) == len(held)


def test_the_window_before_the_next_query_is_always_held() -> None:
    layout = CacheLayout(window=8, rows=24)
    assert all(layout.held(tokens) >= min(tokens, 8 - 1) for tokens in range(200))


@pytest.mark.parametrize("window", [None, 4])
def test_without_a_bound_nothing_leaves(window: int | None) -> None:
    layout = CacheLayout(window=window, rows=None)
    assert (layout.first(1000), layout.held(1000)) == (0, 1000)


def test_a_layout_that_cannot_be_is_refused() -> None:
    with pytest.raises(ContractError, match="rows are 4 without a window; expected none"):
        CacheLayout(window=None, rows=4)
    with pytest.raises(ContractError, match="3 rows cannot hold a window of 4"):
        CacheLayout(window=4, rows=3)


def test_default_slack_is_an_eighth_and_at_least_sixteen() -> None:
    assert [default_rows(window) for window in (None, 8, 4096)] == [None, 24, 4608]


def test_the_worked_example_is_true() -> None:
    assert doctest.testmod(cache).failed == 0
    assert doctest.testmod(cache).attempted > 0
