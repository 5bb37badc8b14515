"""Can the caller ask for the last positions' logits only?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs.passes.keep_last_logits import KeepLastLogits
from tramontane.runtime.errors import GraphError

HEAD = """(float[b,t,4] x) => (float[b,n,6] logits) <float[6,4] w> {
    doubled = Add(x, x)
    columns = Transpose<perm = [1, 0]>(w)
    logits = MatMul(doubled, columns)
}"""


def test_head_reads_a_slice_and_the_input_has_a_default(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    model = build(HEAD, w=normal(6, 4))
    assert KeepLastLogits()(model).modified
    assert [value.name for value in model.graph.inputs] == ["x", "num_logits_to_keep"]
    assert model.graph.initializers["num_logits_to_keep"].const_value.numpy() == 0
    assert model.graph.node(-1).inputs[0].producer().op_type == "Slice"
    assert op_types(model).count("Slice") == 1


def test_linear_layer_that_makes_another_output_is_left_alone(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    text = """(float[b,t,4] x) => (float[b,n,6] logits, float[b,t,6] hidden)
    <float[6,4] w, float[6,4] v> {
        rows = Transpose<perm = [1, 0]>(v)
        hidden = MatMul(x, rows)
        columns = Transpose<perm = [1, 0]>(w)
        logits = MatMul(x, columns)
    }"""
    model = build(text, w=normal(6, 4), v=normal(6, 4))
    KeepLastLogits()(model)
    hidden, logits = (node for node in model.graph if node.op_type == "MatMul")
    assert hidden.inputs[0].name == "x"
    assert logits.inputs[0].name != "x"


def test_graph_with_the_input_already_is_left_alone(build: Callable, normal: Callable) -> None:
    text = HEAD.replace("(float[b,t,4] x)", "(float[b,t,4] x, int64 num_logits_to_keep)")
    assert not KeepLastLogits()(build(text, w=normal(6, 4))).modified


def test_head_that_is_no_linear_layer_is_refused(build: Callable) -> None:
    model = build("(float[b,t,4] x) => (float[b,n,4] logits) { logits = Add(x, x) }")
    with pytest.raises(GraphError, match="logits: expected the output of a linear layer"):
        KeepLastLogits()(model)


def test_second_run_modifies_nothing(build: Callable, normal: Callable) -> None:
    model = build(HEAD, w=normal(6, 4))
    KeepLastLogits()(model)
    assert not KeepLastLogits()(model).modified


@pytest.mark.parametrize("count", [None, 0, 1, 2, 5, 9])
def test_values_agree_with_the_last_rows_before(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    count: int | None,
) -> None:
    model, x = build(HEAD, w=normal(6, 4)), normal(2, 5, 4)
    before = evaluate(model, x=x)["logits"]
    KeepLastLogits()(model)
    chosen = {} if count is None else {"num_logits_to_keep": np.array(count, dtype=np.int64)}
    found = evaluate(model, x=x, **chosen)
    assert_agree(found, {"logits": before[:, -(count or 0) :]})
