"""Does onnxruntime's own kernel do the attention?"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tramontane.graphs.operator import schema
from tramontane.graphs.passes.attach_function import AttachFunction
from tramontane.graphs.passes.lower_attention import LowerAttention
from tramontane.graphs.targets.all_targets import find_target
from tramontane.runtime.errors import GraphError

CHUNKS = [[1] * 30, [7, 1, 1], [8, 1, 1], [9, 1], [24, 1, 1], [60, 1, 3], [7, 8, 9, 10]]


def test_operator_becomes_the_kernel(
    build: Callable, op_types: Callable, attention_text: str
) -> None:
    model = build(attention_text)
    assert LowerAttention()(model).modified
    assert op_types(model).count("GroupQueryAttention") == 1
    assert "SlidingWindowAttention" not in op_types(model)
    assert schema.DOMAIN not in model.graph.opset_imports
    kernel = model.graph.node(-1)
    assert {name: kernel.attributes.get_int(name) for name in kernel.attributes} == {
        "num_heads": 4,
        "kv_num_heads": 2,
        "do_rotary": 1,
        "local_window_size": 8,
        "sliding_window_cache": 1,
    }


def test_lengths_are_counted_once_for_two_layers(
    build: Callable, op_types: Callable, attention_text: str
) -> None:
    second = """deeper, k, v = tramontane.SlidingWindowAttention<window = 8>
        (attention, key, value, past_key, past_value, attention_mask, cos_cache, sin_cache) }"""
    model = build(attention_text.replace("}", second))
    model.graph.node(0).outputs[0].shape = model.graph.inputs[0].shape
    LowerAttention()(model)
    assert op_types(model).count("GroupQueryAttention") == 2
    assert op_types(model).count("ReduceSum") == 1


def test_attention_without_a_window_gets_a_growing_cache(
    build: Callable, attention_text: str
) -> None:
    model = build(attention_text.replace("<window = 8>", ""))
    LowerAttention()(model)
    kernel = model.graph.node(-1)
    assert set(kernel.attributes) == {"num_heads", "kv_num_heads", "do_rotary"}


def test_window_over_a_cache_that_grows_lets_no_row_leave(
    build: Callable, growing_text: str
) -> None:
    model = build(growing_text)
    assert LowerAttention()(model).modified
    kernel = model.graph.node(-1)
    assert {name: kernel.attributes.get_int(name) for name in kernel.attributes} == {
        "num_heads": 4,
        "kv_num_heads": 2,
        "do_rotary": 1,
        "local_window_size": 8,
    }
    assert not LowerAttention()(model).modified


def test_operator_of_that_name_in_another_domain_is_left_alone(
    build: Callable, op_types: Callable, attention_text: str
) -> None:
    model = build(attention_text.replace("tramontane.Sliding", "com.microsoft.Sliding"))
    assert not LowerAttention()(model).modified
    assert op_types(model) == ["SlidingWindowAttention"]


def test_head_size_that_is_not_a_number_is_refused(build: Callable, attention_text: str) -> None:
    model = build(attention_text.replace("float[b,2,24,16] past_key", "float[b,2,24,d] past_key"))
    with pytest.raises(GraphError, match="past_key: axis 3 is d, expected a number"):
        LowerAttention()(model)


def test_second_run_modifies_nothing(build: Callable, attention_text: str) -> None:
    model = build(attention_text)
    LowerAttention()(model)
    assert not LowerAttention()(model).modified


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_values_agree_with_the_operator_s_body(
    build: Callable, assert_agree: Callable, play: Any, attention_text: str, chunks: list[int]
) -> None:
    kernel, body = build(attention_text), build(attention_text)
    LowerAttention()(kernel)
    AttachFunction()(body)
    for found, expected in play(chunks, kernel, body):
        assert_agree(found, expected)


def test_another_window_does_not_agree(
    build: Callable, assert_agree: Callable, play: Any, attention_text: str
) -> None:
    kernel, body = build(attention_text.replace("= 8>", "= 7>")), build(attention_text)
    LowerAttention()(kernel)
    AttachFunction()(body)
    found, expected = next(play([9], kernel, body))
    with pytest.raises(AssertionError, match="attention"):
        assert_agree(found, expected)


@pytest.mark.parametrize("rows", [0, 64])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_values_agree_with_the_operator_s_body_over_a_cache_that_grows(
    build: Callable,
    assert_agree: Callable,
    play: Any,
    growing_text: str,
    chunks: list[int],
    rows: int,
) -> None:
    kernel, body = build(growing_text), build(growing_text)
    LowerAttention()(kernel)
    AttachFunction()(body)
    for found, expected in play(chunks, kernel, body, growing=rows):
        assert_agree(found, expected)


def test_planted_eviction_from_a_cache_that_grows_is_noticed(
    build: Callable, evaluate: Callable, assert_agree: Callable, play: Any, growing_text: str
) -> None:
    kernel, body = build(growing_text), build(growing_text)
    LowerAttention()(kernel)
    AttachFunction()(body)

    def evicting(**feeds: np.ndarray) -> dict[str, np.ndarray]:
        for name in ("past_key", "past_value"):
            feeds[name] = np.roll(feeds[name], -1, axis=2)
        return evaluate(kernel, **feeds)

    steps = play([9, 1], evicting, body, growing=0)
    assert_agree(*next(steps))
    with pytest.raises(AssertionError, match="attention"):
        assert_agree(*next(steps))


def test_bounded_cache_does_not_agree_where_one_grows(
    build: Callable, assert_agree: Callable, play: Any, attention_text: str, growing_text: str
) -> None:
    kernel, body = build(attention_text), build(growing_text)
    LowerAttention()(kernel)
    AttachFunction()(body)
    with pytest.raises(AssertionError):
        for found, expected in play([24, 1], kernel, body, growing=24):
            assert_agree(found, expected)


@pytest.mark.parametrize("D", [2, 4, 8, 12, 16, 20, 24, 40, 100, 272])
def test_head_sizes_that_are_refused_are_those_that_the_kernel_refuses(
    build: Callable, evaluate: Callable, normal: Callable, attention_text: str, D: int
) -> None:
    sizes = {"64": 4 * D, "32": 2 * D, "16": D, "8": D // 2}
    text = re.sub(r",(64|32|16|8)\]", lambda size: f",{sizes[size[1]]}]", attention_text)
    model = build(text)
    LowerAttention()(model)
    cache, table = np.zeros((1, 2, 24, D), np.float32), np.ones((256, D // 2), np.float32)
    feeds = {
        "query": normal(1, 5, 4 * D),
        "key": normal(1, 5, 2 * D),
        "value": normal(1, 5, 2 * D),
        "attention_mask": np.ones((1, 5), np.int64),
        "past_key": cache,
        "past_value": cache,
        "cos_cache": table,
        "sin_cache": table,
    }
    if D % 8:
        with pytest.raises(Exception, match="head_size must be a multiple of 8"):
            evaluate(model, **feeds)
        with pytest.raises(GraphError, match=f"head_dim is {D}, expected a multiple of 8"):
            find_target("ort").refuse_head_size(D, quant="fp32", kv="float32")
    else:
        assert np.isfinite(evaluate(model, **feeds)["attention"]).all()
        find_target("ort").refuse_head_size(D, quant="fp32", kv="float32")
