"""Which matrices are packed, and which stay, whatever the target?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.matrix_schemes import MatrixSchemes
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.packing.pack_for_ort import PackForOrt
from tramontane.graphs.quantization.packing.pack_for_portable import PackForPortable
from tramontane.graphs.quantization.packing.pack_matrices import PackMatrices
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.graphs.writing.external_data import initializers_as_read
from tramontane.runtime.errors import GraphError

LINEAR = """(float[b,t,256] x) => (float[b,t,6] z) <float[6,256] w> {
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
    z = Identity(y)
}"""
HEAD = """(float[b,t,256] x) => (float[b,t,6] y) <float[6,256] w> {
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
}"""
GATHER = """(int64[b,t] ids) => (float[b,t,256] rows) <float[6,256] w> {
    rows = Gather(w, ids)
}"""
TIED = """(int64[b,t] ids) => (float[b,t,6] y) <float[6,256] w> {
    x = Gather(w, ids)
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
}"""
TWICE = """(float[b,t,256] x, float[b,t,256] z) => (float[b,t,6] sum) <float[6,256] w> {
    a = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, a)
    b = Transpose<perm = [1, 0]>(w)
    q = MatMul(z, b)
    sum = Add(y, q)
}"""
IDS = np.array([[0, 5, 3], [5, 1, 2]])
QUANTS = ("int8", "int4")

every_pass = pytest.mark.parametrize("packs", [PackForOrt, PackForPortable])
every_quant = pytest.mark.parametrize("quant", QUANTS)


def schemes(quant: str, block: int = 32) -> MatrixSchemes:
    return MatrixSchemes(find_recipe(quant), block=block)


def bits_in(model: ir.Model) -> set[int]:
    """The bits of all codes that the graph reads."""
    packings = [weights.packing(value) for value in initializers_as_read(model.graph)]
    return {packing.bits for packing in packings if packing}


def rounded(matrix: np.ndarray, bits: int) -> np.ndarray:
    scheme = Scheme(bits=bits, block=32)
    return dequantize(quantize(matrix, scheme), scheme, columns=matrix.shape[1])


@every_pass
@pytest.mark.parametrize(
    ("text", "quant", "bits"),
    [
        (LINEAR, "int8", 8),
        (LINEAR, "int4", 4),
        (HEAD, "int4", 8),
        (GATHER, "int8", 8),
        (GATHER, "int4", 4),
        (TIED, "int8", 8),
        (TIED, "int4", 8),
        (TWICE, "int4", 4),
    ],
    ids=str.split("linear-8 linear-4 head-4 gather-8 gather-4 tied-8 tied-4 twice-4"),
)
def test_matrix_has_the_bits_that_its_most_exacting_reader_asks_for(
    build: Callable,
    normal: Callable,
    packs: type[PackMatrices],
    text: str,
    quant: str,
    bits: int,
) -> None:
    model = build(text, w=normal(6, 256))
    assert packs(schemes(quant))(model).modified
    assert bits_in(model) == {bits}


@every_pass
@every_quant
def test_tied_matrix_lies_in_the_file_once(
    build: Callable, normal: Callable, packs: type[PackMatrices], quant: str
) -> None:
    model = build(TIED, w=normal(6, 256))
    packs(schemes(quant))(model)
    codes = [v for v in initializers_as_read(model.graph) if weights.packing(v)]
    assert len({weights.owner(value) for value in codes}) == 1
    assert len({weights.stored(value).tobytes() for value in codes}) == 1


@every_pass
@every_quant
@pytest.mark.parametrize("columns", [256, 172])
def test_values_agree_where_a_matrix_is_both_gathered_and_multiplied(
    build: Callable,
    evaluate: Callable,
    normal: Callable,
    packs: type[PackMatrices],
    quant: str,
    columns: int,
) -> None:
    w = normal(6, columns)
    model = build(TIED.replace("256", str(columns)), w=w)
    packs(schemes(quant))(model)
    expected = (w @ w.T)[IDS]
    error = np.abs(evaluate(model, ids=IDS)["y"] - expected)
    assert error.max() < np.abs(expected).max() / 50


@every_pass
@every_quant
@pytest.mark.parametrize(
    "text", [LINEAR, GATHER, TIED, TWICE], ids=str.split("linear gather tied twice")
)
def test_every_weight_that_is_read_is_one_of_the_graph(
    build: Callable, normal: Callable, packs: type[PackMatrices], quant: str, text: str
) -> None:
    model = build(text, w=normal(6, 256))
    packs(schemes(quant))(model)
    read = [v for node in model.graph for v in node.inputs if v is not None and v.const_value]
    assert [v.name for v in read if model.graph.initializers.get(v.name) is not v] == []


@every_pass
@pytest.mark.parametrize("bits", [8, 4])
def test_values_agree_where_two_layers_multiply_by_one_matrix(
    build: Callable, evaluate: Callable, normal: Callable, packs: type[PackMatrices], bits: int
) -> None:
    w, x, z = normal(6, 256), normal(1, 2, 256), normal(1, 2, 256)
    model = build(TWICE, w=w)
    packs(schemes({8: "int8", 4: "int4-rtn"}[bits]))(model)
    expected = (x + z) @ rounded(w, bits).T
    error = np.abs(evaluate(model, x=x, z=z)["sum"] - expected)
    assert error.max() < np.abs(expected).max() / 50


@every_pass
@every_quant
@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("(float[b,t,256] x) => (float[b,t,6] y) <float[256,6] w> { y = MatMul(x, w) }", (256, 6)),
        (LINEAR.replace("[1, 0]", "[0, 1]").replace("[6,256]", "[256,6]"), (256, 6)),
        (LINEAR.replace("MatMul(x, columns)", "Add(x, columns)"), (6, 256)),
        (GATHER.replace("Gather(", "Gather<axis = 1>("), (6, 256)),
        ("(int64[b,t] ids) => (float[b,t] y) <float[6] w> { y = Gather(w, ids) }", (6,)),
        ("(int64[b] ids) => (float[b,2,4] y) <float[6,2,4] w> { y = Gather(w, ids) }", (6, 2, 4)),
        ("(int64[b,t] ids, float[6,4] w) => (float[b,t,4] y) { y = Gather(w, ids) }", None),
    ],
    ids=[
        "not transposed",
        "axes kept",
        "added",
        "columns gathered",
        "vector",
        "three axes",
        "input",
    ],
)
def test_what_is_neither_a_linear_layer_nor_a_gather_of_rows_is_left_alone(
    build: Callable,
    op_types: Callable,
    normal: Callable,
    packs: type[PackMatrices],
    quant: str,
    text: str,
    size: tuple[int, ...] | None,
) -> None:
    model = build(text) if size is None else build(text, w=normal(*size))
    before = op_types(model)
    assert not packs(schemes(quant))(model).modified
    assert op_types(model) == before


@every_pass
@every_quant
@pytest.mark.parametrize("text", [HEAD, TIED, TWICE], ids=["head", "tied", "twice"])
def test_second_run_modifies_nothing(
    build: Callable,
    op_types: Callable,
    normal: Callable,
    packs: type[PackMatrices],
    quant: str,
    text: str,
) -> None:
    model = build(text, w=normal(6, 256))
    packs(schemes(quant))(model)
    before = op_types(model)
    assert not packs(schemes(quant))(model).modified
    assert op_types(model) == before


@every_pass
@pytest.mark.parametrize("text", [LINEAR, GATHER], ids=["linear", "gather"])
def test_rows_that_do_not_fill_bytes_are_refused_before_the_graph_is_touched(
    build: Callable, op_types: Callable, normal: Callable, packs: type[PackMatrices], text: str
) -> None:
    model = build(text.replace("256", "173"), w=normal(6, 173))
    before = op_types(model)
    message = (
        "w: rows of 173 weights do not fill bytes in 4 bits, "
        "expected an even number; take --quant int8"
    )
    with pytest.raises(GraphError, match=message):
        packs(schemes("int4"))(model)
    assert op_types(model) == before


@every_pass
@pytest.mark.parametrize(
    ("text", "quant"),
    [(LINEAR, "int8"), (GATHER, "int8"), (HEAD, "int4")],
    ids=["linear", "gather", "head"],
)
def test_odd_rows_are_packed_in_8_bits(
    build: Callable, normal: Callable, packs: type[PackMatrices], text: str, quant: str
) -> None:
    model = build(text.replace("256", "173"), w=normal(6, 173))
    assert packs(schemes(quant))(model).modified
    assert bits_in(model) == {8}


@every_pass
def test_no_number_is_computed_while_packing(build: Callable, packs: type[PackMatrices]) -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("asked for its numbers")

    model = build(TIED, w=np.zeros((6, 256), np.float32))
    lazy = weights.weight("w", refuse, shape=(6, 256))
    model.graph.initializers["w"].const_value = lazy.const_value
    assert packs(schemes("int4"))(model).modified
