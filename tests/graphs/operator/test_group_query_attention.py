"""Are the kernel's inputs where we say they are?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.operator.group_query_attention import (
    WINDOW,
    Slot,
    in_order,
    is_group_query_attention,
    slot,
)
from tramontane.graphs.passes.lower_attention import LowerAttention


def test_slots_count_from_0_without_a_gap() -> None:
    assert list(Slot) == list(range(len(Slot)))


@pytest.fixture
def kernel(build: Callable[..., ir.Model], attention_text: str) -> ir.Node:
    model = build(attention_text)
    LowerAttention()(model)
    return model.graph.node(-1)


def test_lowered_attention_has_every_input_in_its_slot(kernel: ir.Node) -> None:
    assert is_group_query_attention(kernel)
    names = {place: str(value.name) for place in Slot if (value := slot(kernel, place))}
    assert names == {
        Slot.QUERY: "query",
        Slot.KEY: "key",
        Slot.VALUE: "value",
        Slot.PAST_KEY: "past_key",
        Slot.PAST_VALUE: "past_value",
        Slot.SEQLENS_K: "seqlens_k",
        Slot.TOTAL_SEQUENCE_LENGTH: "total_sequence_length_k",
        Slot.COS_CACHE: "cos_cache",
        Slot.SIN_CACHE: "sin_cache",
    }


def test_slots_left_out_are_empty_and_the_last_given_ends_the_inputs() -> None:
    x = ir.Value(name="x")
    assert in_order({Slot.QUERY: x, Slot.PAST_KEY: x}) == [x, None, None, x]


def test_the_same_name_in_another_domain_is_another_operator(
    build: Callable[..., ir.Model],
) -> None:
    text = "(float[1] x) => (float[1] y) { y = tramontane.GroupQueryAttention(x) }"
    assert not is_group_query_attention(build(text).graph.node(0))


def test_kernel_reads_the_window_from_the_attribute_of_that_name(
    kernel: ir.Node, evaluate: Callable[..., dict[str, np.ndarray]]
) -> None:
    assert isinstance(kernel.graph, ir.Graph)
    model, cache = ir.Model(kernel.graph, ir_version=10), np.zeros((1, 2, 24, 16), np.float32)
    feeds = {
        "query": np.ones((1, 20, 64), np.float32),
        "key": np.ones((1, 20, 32), np.float32),
        "value": np.repeat(np.arange(20, dtype=np.float32), 32).reshape(1, 20, 32),
        "attention_mask": np.ones((1, 20), np.int64),
        "past_key": cache,
        "past_value": cache,
        "cos_cache": np.ones((256, 8), np.float32),
        "sin_cache": np.zeros((256, 8), np.float32),
    }
    for window in (8, 3):
        kernel.attributes[WINDOW] = ir.AttrInt64(WINDOW, window)
        found = evaluate(model, **feeds)["attention"][0, -1]
        np.testing.assert_allclose(found, 19 - (window - 1) / 2, rtol=1e-5)  # the mean of so many
