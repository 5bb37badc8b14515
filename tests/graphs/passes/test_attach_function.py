"""Does the attention carry its definition in standard ops?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.operator import schema
from tramontane.graphs.passes.attach_function import AttachFunction

CHUNKS = [[1] * 30, [7, 1, 1], [8, 1, 1], [9, 1], [24, 1, 1], [60, 1, 3], [7, 8, 9, 10]]


def test_body_is_attached(build: Callable, op_types: Callable, attention_text: str) -> None:
    model: ir.Model = build(attention_text)
    assert AttachFunction()(model).modified
    assert list(model.functions) == [(schema.DOMAIN, schema.SLIDING_WINDOW_ATTENTION, "")]
    assert op_types(model) == ["SlidingWindowAttention"]


def test_operator_of_that_name_in_another_domain_is_left_alone(
    build: Callable, attention_text: str
) -> None:
    model = build(attention_text.replace("tramontane.Sliding", "com.microsoft.Sliding"))
    assert not AttachFunction()(model).modified
    assert not model.functions


def test_second_run_modifies_nothing(build: Callable, attention_text: str) -> None:
    model = build(attention_text)
    AttachFunction()(model)
    assert not AttachFunction()(model).modified


def eager(*, grows: bool) -> Callable[..., dict[str, np.ndarray]]:
    import torch
    from tramontane.export.model.attention import sliding_window_attention

    def attend(**feeds: np.ndarray) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(feeds[name].copy()) for name in schema.INPUTS]
        found = sliding_window_attention(*tensors, 8, grows)
        return {n: t.numpy() for n, t in zip(schema.OUTPUTS, found, strict=True)}

    return attend


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_values_agree_with_the_operator_in_eager_pytorch(
    build: Callable, assert_agree: Callable, play: Any, attention_text: str, chunks: list[int]
) -> None:
    model = build(attention_text)
    AttachFunction()(model)
    for found, expected in play(chunks, model, eager(grows=False)):
        assert_agree(found, expected)


@pytest.mark.parametrize("rows", [0, 5, 64])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_values_agree_with_eager_pytorch_over_a_cache_that_grows(
    build: Callable,
    assert_agree: Callable,
    play: Any,
    growing_text: str,
    chunks: list[int],
    rows: int,
) -> None:
    model = build(growing_text)
    AttachFunction()(model)
    for found, expected in play(chunks, model, eager(grows=True), growing=rows):
        assert_agree(found, expected)


def test_cache_that_grows_keeps_the_rows_that_the_window_hides(
    build: Callable, play: Any, growing_text: str
) -> None:
    model = build(growing_text)
    AttachFunction()(model)
    (first, _), (second, _) = play([30, 1], model, model, growing=0)
    for name in ("present_key", "present_value"):
        assert first[name].shape == (2, 2, 30, 16)
        assert second[name].shape == (2, 2, 31, 16)
        np.testing.assert_array_equal(second[name][:, :, :30], first[name])


def test_planted_eviction_from_a_cache_that_grows_is_noticed(
    build: Callable, evaluate: Callable, assert_agree: Callable, play: Any, growing_text: str
) -> None:
    model = build(growing_text)
    AttachFunction()(model)

    def evicting(**feeds: np.ndarray) -> dict[str, np.ndarray]:
        for name in ("past_key", "past_value"):
            feeds[name] = np.roll(feeds[name], -1, axis=2)
        return evaluate(model, **feeds)

    steps = play([9, 1], evicting, eager(grows=True), growing=0)
    assert_agree(*next(steps))
    with pytest.raises(AssertionError, match="attention"):
        assert_agree(*next(steps))
