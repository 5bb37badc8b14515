"""Does the attention carry its definition in standard ops?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import ops
from tramontane.graphs.attach_body import AttachBody

CHUNKS = [[1] * 30, [7, 1, 1], [8, 1, 1], [9, 1], [24, 1, 1], [60, 1, 3], [7, 8, 9, 10]]


def test_body_is_attached(build: Callable, op_types: Callable, attention_text: str) -> None:
    model: ir.Model = build(attention_text)
    assert AttachBody()(model).modified
    assert list(model.functions) == [(ops.DOMAIN, ops.SLIDING_WINDOW_ATTENTION, "")]
    assert op_types(model) == ["SlidingWindowAttention"]


def test_operator_of_that_name_in_another_domain_is_left_alone(
    build: Callable, attention_text: str
) -> None:
    model = build(attention_text.replace("tramontane.Sliding", "com.microsoft.Sliding"))
    assert not AttachBody()(model).modified
    assert not model.functions


def test_second_run_modifies_nothing(build: Callable, attention_text: str) -> None:
    model = build(attention_text)
    AttachBody()(model)
    assert not AttachBody()(model).modified


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_values_agree_with_the_operator_in_eager_pytorch(
    build: Callable, assert_agree: Callable, play: Any, attention_text: str, chunks: list[int]
) -> None:
    import torch
    from tramontane.export.attention import sliding_window_attention

    def eager(**feeds: np.ndarray) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(feeds[name].copy()) for name in ops.INPUTS]
        found = sliding_window_attention(*tensors, 8)
        return {n: t.numpy() for n, t in zip(ops.OUTPUTS, found, strict=True)}

    model = build(attention_text)
    AttachBody()(model)
    for found, expected in play(chunks, model, eager):
        assert_agree(found, expected)
