"""Are weights stored as they are multiplied?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tramontane.graphs.passes.fold_transposes import FoldTransposes

LINEAR = """(float[b,t,4] x) => (float[b,t,6] y) <float[6,4] w> {
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
}"""
SHARED = """(float[b,t,4] x) => (float[b,t,6] y, float[b,t,6] z) <float[6,4] w> {
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
    twice = Add(x, x)
    z = MatMul(twice, columns)
}"""
SCORES = """(float[5,4] x, float[6,4] w) => (float[5,6] y) {
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
}"""


def test_transpose_of_a_weight_is_folded(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    w = normal(6, 4)
    model = build(LINEAR, w=w)
    assert FoldTransposes()(model).modified
    assert op_types(model) == ["MatMul"]
    folded = model.graph.node(0).inputs[1]
    np.testing.assert_array_equal(folded.const_value.numpy(), w.T)


def test_transpose_of_an_input_is_left_alone(build: Callable, op_types: Callable) -> None:
    model = build(SCORES)
    assert not FoldTransposes()(model).modified
    assert op_types(model) == ["Transpose", "MatMul"]


def test_transpose_that_keeps_the_axes_is_left_alone(build: Callable, normal: Callable) -> None:
    model = build(LINEAR.replace("[1, 0]", "[0, 1]").replace("[6,4]", "[4,6]"), w=normal(4, 6))
    assert not FoldTransposes()(model).modified


def test_second_run_modifies_nothing(build: Callable, normal: Callable) -> None:
    model = build(LINEAR, w=normal(6, 4))
    FoldTransposes()(model)
    assert not FoldTransposes()(model).modified


def test_values_agree_where_one_layer_reads_the_transpose(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    model, x = build(LINEAR, w=normal(6, 4)), normal(2, 3, 4)
    before = evaluate(model, x=x)
    FoldTransposes()(model)
    assert_agree(evaluate(model, x=x), before)


def test_values_agree_where_two_layers_read_the_transpose(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    model, x = build(SHARED, w=normal(6, 4)), normal(2, 3, 4)
    before = evaluate(model, x=x)
    FoldTransposes()(model)
    assert_agree(evaluate(model, x=x), before)


TIED = """(int64[b,t] ids) => (float[b,t,6] y) <float[6,4] w, float[6,4] v> {
    rows = Gather(w, ids)
    others = Gather(v, ids)
    sum = Add(rows, others)
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(sum, columns)
}"""


def test_rows_of_a_tied_matrix_are_gathered_from_its_columns_and_no_bit_changes(
    build: Callable, evaluate: Callable, op_types: Callable, normal: Callable
) -> None:
    model, ids = build(TIED, w=normal(6, 4), v=normal(6, 4)), np.array([[5, 0, 3], [1, 1, 2]])
    before = evaluate(model, ids=ids)
    assert FoldTransposes()(model).modified
    assert op_types(model) == ["Gather", "Transpose", "Gather", "Add", "MatMul"]
    table, other = (node.inputs[0] for node in model.graph if node.op_type == "Gather")
    assert table is model.graph.node(4).inputs[1]
    assert other.name == "v"
    np.testing.assert_array_equal(evaluate(model, ids=ids)["y"], before["y"])
    assert not FoldTransposes()(model).modified
