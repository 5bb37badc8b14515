"""Do rules find a cache with the wrong rows, and no other?"""

from __future__ import annotations

from typing import Any

import pytest

from .one_layer import DECOMPOSED, GQA, MASK, MISTRAL, OURS, Ask, genai, say


def test_cache_of_fewer_rows_than_the_window_is_told(ask: Ask) -> None:
    say(ask("cache-too-short", rows=7), "error", "7 rows", "window of 8", "export 24 rows")
    assert ask("cache-too-short", rows=8) is None


@pytest.mark.parametrize("rows", [8, 23])
def test_cache_without_slack_is_told(ask: Ask, rows: int) -> None:
    say(ask("cache-without-slack", rows=rows), "warning", f"{rows} rows", "allocates 24 rows")


def test_cache_with_slack_is_not(ask: Ask) -> None:
    assert ask("cache-without-slack", rows=24) is None
    assert ask("cache-without-slack", rows=7) is None  # it is too short
    assert ask("cache-without-slack", GQA, rows=8) is None  # no window


@pytest.mark.parametrize(
    ("section", "search", "rows"),
    [({}, {}, 24), ({"cache_slack": 4}, {}, 12), ({}, {"chunk_size": 32}, 39)],
    ids=str,
)
def test_rows_that_onnxruntime_genai_does_not_allocate_are_told(
    ask: Ask, section: Any, search: Any, rows: int
) -> None:
    config = genai(**section) | {"search": search}
    assert ask("genai-rows-differ", rows=rows, genai=config) is None
    say(ask("genai-rows-differ", rows=rows + 1, genai=config), "error", f"makes it {rows}")


def test_bounded_cache_under_a_graph_that_grows_it_is_told(ask: Ask) -> None:
    finding = ask("genai-cache-overflows", GQA, rows="C", genai=genai(layers=[]))
    say(finding, "error", "fails at token 25", "gets 24 rows")


@pytest.mark.parametrize(
    "config",
    [
        genai(layers=[1]),
        genai(slide_key_value_cache=True),
        genai(window_size=0),
        genai(cache_slack=248),
        {"model": {"context_length": 256}},
    ],
    ids=str,
)
def test_cache_that_onnxruntime_genai_lets_grow_is_not(ask: Ask, config: Any) -> None:
    assert ask("genai-cache-overflows", GQA, rows="C", genai=config) is None
    assert ask("genai-cache-overflows", rows="C", genai=genai()) is None


def test_window_that_masks_only_is_told_with_its_cost(ask: Ask) -> None:
    nodes = GQA.replace("@", ", local_window_size = 8")
    finding = ask("cache-grows", nodes, rows="C", config=MISTRAL)
    say(finding, "warning", "65.54 kB at 256 tokens", "24 rows would take 6.14 kB")


def test_mask_s_window_over_a_growing_cache_is_told(ask: Ask) -> None:
    mask = MASK.format(compare="Greater", edge="Sub", number=8, operands="mask, edge")
    nodes = DECOMPOSED.replace("@", mask)
    say(ask("cache-grows", nodes, rows="C"), "warning", "the window of 8 only masks")
    assert ask("cache-grows", nodes, rows=24) is None


def test_cache_that_slides_or_has_no_window_is_not_said_to_grow(ask: Ask) -> None:
    assert ask("cache-grows", rows="C") is None
    assert ask("cache-grows", OURS) is None
    assert ask("cache-grows", GQA, rows="C") is None


def test_sliding_cache_without_a_number_of_rows_is_told(ask: Ask) -> None:
    say(ask("cache-rows-unnamed", rows="C"), "note", "has C rows", "at least 8")
    assert ask("cache-rows-unnamed") is None
    assert ask("cache-rows-unnamed", GQA, rows="C") is None
