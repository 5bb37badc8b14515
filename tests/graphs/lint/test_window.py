"""Do rules find a window that is lost, differs or was never there, and nothing else?"""

from __future__ import annotations

from typing import Any

import pytest

from .one_layer import DECOMPOSED, GQA, MASK, MISTRAL, OURS, Ask, genai, say


def test_window_that_the_graph_does_not_have_is_told(ask: Ask) -> None:
    finding = ask("window-lost", GQA.replace("@", ", local_window_size = -1"), config=MISTRAL)
    say(finding, "error", "1 of 1", "config.json: sliding_window is 8", "from token 9 on")
    say(ask("window-lost", GQA, genai=genai()), "error", "window_size is 8")


def test_window_that_the_graph_has_is_not_lost(ask: Ask) -> None:
    assert ask("window-lost", config=MISTRAL) is None
    assert ask("window-lost", OURS, config=MISTRAL) is None


@pytest.mark.parametrize(
    "config",
    [
        MISTRAL | {"sliding_window": None},
        MISTRAL | {"use_sliding_window": False},
        MISTRAL | {"model_type": "llama"},
        MISTRAL | {"model_type": "qwen2"},
        MISTRAL | {"layer_types": ["full_attention"]},
        MISTRAL | {"use_sliding_window": True, "max_window_layers": 1},
        MISTRAL | {"max_position_embeddings": 8},
    ],
    ids=str,
)
def test_window_that_the_model_does_not_use_is_not_missed(ask: Ask, config: Any) -> None:
    assert ask("window-lost", GQA, config=config) is None


def test_window_of_the_decoder_s_part_of_the_config_is_read(ask: Ask) -> None:
    say(ask("window-lost", GQA, config={"text_config": MISTRAL}), "error", "is 8")


@pytest.mark.parametrize(
    ("compare", "edge", "number", "operands"),
    [
        ("Greater", "Sub", 8, "mask, edge"),
        ("GreaterOrEqual", "Sub", 7, "mask, edge"),
        ("Less", "Sub", 8, "edge, mask"),
        ("LessOrEqual", "Sub", 8, "mask, edge"),  # what it masks, not what it shows
        ("Greater", "Add", -8, "mask, edge"),
        ("Less", "Add", 8, "mask, edge"),
        ("GreaterOrEqual", "Add", 8, "mask, edge"),
    ],
)
def test_window_in_a_mask_is_found_however_it_is_compared(
    ask: Ask, compare: str, edge: str, number: int, operands: str
) -> None:
    mask = MASK.format(compare=compare, edge=edge, number=number, operands=operands)
    nodes = DECOMPOSED.replace("@", mask)
    assert ask("window-lost", nodes, config=MISTRAL) is None
    if operands == "mask, edge":
        assert ask("window-differs", nodes, config=MISTRAL) is None
        say(
            ask("window-differs", nodes, config=MISTRAL | {"sliding_window": 9}),
            "error",
            "1 fewer",
        )


def test_window_in_a_triangle_is_found(ask: Ask) -> None:
    triangle = """window = Constant<value_int = -8>()
    visible = Trilu<upper = 0>(scores, window)"""
    assert ask("window-lost", DECOMPOSED.replace("@", triangle), config=MISTRAL) is None


def test_mask_that_is_causal_alone_has_lost_the_window(ask: Ask) -> None:
    mask = MASK.format(compare="LessOrEqual", edge="Sub", number=0, operands="mask, edge")
    finding = ask("window-lost", DECOMPOSED.replace("@", mask), config=MISTRAL)
    say(finding, "error", "Softmax", "no comparison of positions 8 apart")


def test_window_in_a_bias_of_the_kernel_counts(ask: Ask) -> None:
    mask = MASK.format(compare="Greater", edge="Sub", number=8, operands="mask, edge")
    nodes = mask + GQA.replace("cos, cos", "cos, cos, , visible")
    assert ask("window-lost", nodes, config=MISTRAL) is None
    say(ask("window-lost", GQA, config=MISTRAL), "error")


def test_length_compared_with_a_number_is_no_window(ask: Ask) -> None:
    mask = MASK.format(compare="Less", edge="Sub", number=8, operands="i, window")
    say(ask("window-lost", DECOMPOSED.replace("@", mask), config=MISTRAL), "error")


def test_softmax_that_routes_is_no_attention(ask: Ask) -> None:
    nodes = "shares = Softmax(scores) count = Constant<value_ints = [1]>() logits, rest = TopK(shares, count) }"
    assert ask("window-lost", nodes, config=MISTRAL) is None


@pytest.mark.parametrize(("window", "words"), [(9, "1 more"), (7, "1 fewer")])
def test_window_that_is_off_by_one_is_told(ask: Ask, window: int, words: str) -> None:
    nodes = GQA.replace("@", f", local_window_size = {window}")
    say(ask("window-differs", nodes, config=MISTRAL), "error", f"window {window}", "is 8", words)


def test_window_of_the_model_does_not_differ(ask: Ask) -> None:
    assert ask("window-differs", config=MISTRAL) is None
    assert ask("window-differs", GQA, config=MISTRAL) is None  # it is lost


@pytest.mark.parametrize(("preceding", "is_right"), [(7, True), (8, False)])
def test_window_of_standard_attention_counts_the_query_too(
    ask: Ask, preceding: int, is_right: bool
) -> None:
    nodes = f"logits = Attention<left_window_size = {preceding}>(q, k, v) }}"
    assert (ask("window-differs", nodes, config=MISTRAL) is None) == is_right


def test_window_that_the_model_does_not_have_is_told(ask: Ask) -> None:
    config = MISTRAL | {"sliding_window": None}
    say(ask("window-invented", config=config), "error", "window 8 on 1 layer without", "token 9")


def test_window_is_not_invented_without_a_config_that_denies_it(ask: Ask) -> None:
    assert ask("window-invented") is None
    assert ask("window-invented", config=MISTRAL) is None
    config = MISTRAL | {"sliding_window": None, "max_position_embeddings": 8}
    assert ask("window-invented", config=config) is None


def test_rope_table_shorter_than_the_context_is_told(ask: Ask) -> None:
    say(ask("rope-table-short", table=255, config=MISTRAL), "error", "255 rows", "256 positions")
    say(ask("rope-table-short", OURS, table=255, genai=genai()), "error", "token 256")


def test_rope_table_of_all_positions_is_long_enough(ask: Ask) -> None:
    assert ask("rope-table-short", table=256, config=MISTRAL) is None
    assert ask("rope-table-short", table="P", config=MISTRAL) is None
    assert ask("rope-table-short", table=255) is None
