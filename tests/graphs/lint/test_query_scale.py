"""Is a graph named that does not scale queries, although its model does?"""

from __future__ import annotations

import pytest

from .one_layer import GQA, MISTRAL, Ask, say

ROPE = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16384}
SCALED = "positions = Log(q) " + GQA.replace("(q, k", "(positions, k")


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
def test_missing_scale_of_queries_is_told(ask: Ask, name: str) -> None:
    finding = ask("query-scale-lost", GQA, config=MISTRAL | {name: ROPE})
    say(finding, "error", f"config.json: {name}", "beta is 0.1", "from position 16384 on")


def test_length_that_is_missing_or_no_number_is_not_named(ask: Ask) -> None:
    for original in (None, "16k", True):
        rope = ROPE | {"original_max_position_embeddings": original}
        finding = ask("query-scale-lost", GQA, config=MISTRAL | {"rope_parameters": rope})
        say(finding, "error", "from the original length on")


def test_graph_that_computes_a_logarithm_is_right(ask: Ask) -> None:
    assert ask("query-scale-lost", SCALED, config=MISTRAL | {"rope_parameters": ROPE}) is None


@pytest.mark.parametrize("kind", ["mistral3", "mistral3_text"])
def test_graph_of_genai_s_builder_is_doubted_where_no_config_is_beside_it(
    ask: Ask, kind: str
) -> None:
    described = {"model": {"type": kind, "context_length": 8192}}
    finding = ask("query-scale-lost", GQA, genai=described)
    say(finding, "warning", "genai_config.json", kind, "copy the checkpoint's config.json")
    assert ask("query-scale-lost", SCALED, genai=described) is None
    assert ask("query-scale-lost", GQA, genai={"model": {"type": "mistral"}}) is None
    assert ask("query-scale-lost", GQA, genai=described, config=MISTRAL) is None


@pytest.mark.parametrize("beta", [0, None, "0.1", True])
def test_model_that_does_not_scale_queries_needs_none(ask: Ask, beta: object) -> None:
    rope = ROPE | {"llama_4_scaling_beta": beta}
    assert ask("query-scale-lost", GQA, config=MISTRAL | {"rope_parameters": rope}) is None
    assert ask("query-scale-lost", GQA, config=MISTRAL) is None
