"""Are a weight's numbers computed only when they are asked for, and held to what was promised?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization.codes import pack_codes, unpack_codes
from tramontane.runtime.errors import GraphError


@pytest.fixture
def drawn(normal: Callable) -> ir.Value:
    """A matrix (4, 6) and how often it was computed, in its meta."""
    array = normal(4, 6)

    def compute() -> np.ndarray:
        value.meta["calls"] += 1
        return array

    value = weights.weight("w", compute, shape=(4, 6))
    value.meta["calls"] = 0
    return value


def test_only_reading_computes_and_nothing_is_kept(drawn: ir.Value) -> None:
    turned = weights.transposed(drawn)
    stack = weights.stacked("stack", [drawn, drawn])
    assert (weights.size_of(drawn), weights.num_bytes(drawn)) == ((4, 6), 96)
    assert (weights.size_of(turned), weights.size_of(stack)) == ((6, 4), (8, 6))
    assert drawn.meta["calls"] == 0
    weights.read(drawn)
    weights.stored(drawn)
    assert drawn.meta["calls"] == 2


def test_transposed_and_stacked_hold_the_numbers_that_their_parts_hold(drawn: ir.Value) -> None:
    array = weights.read(drawn)
    np.testing.assert_array_equal(weights.read(weights.transposed(drawn)), array.T)
    stack = weights.stacked("stack", [drawn, drawn])
    np.testing.assert_array_equal(weights.read(stack), np.concatenate([array, array]))


@pytest.mark.parametrize(
    ("dtype", "found", "message"),
    [
        (ir.DataType.FLOAT, np.zeros((3, 4), "f4"), r"computed as float32 \(3, 4\), the graph"),
        (ir.DataType.FLOAT, np.zeros((3, 5), "f8"), r"the graph says float32 \(3, 5\)$"),
        (ir.DataType.UINT8, np.zeros((3, 5), "i1"), r"as int8 \(3, 5\), the graph says uint8"),
        (ir.DataType.UINT4, np.zeros((3, 5), "u1"), r"the graph says uint8 \(8,\)$"),
        (ir.DataType.UINT4, np.zeros(7, "u1"), r"as uint8 \(7,\), the graph says uint8 \(8,\)$"),
    ],
)
def test_numbers_of_another_shape_or_type_are_refused(
    dtype: ir.DataType, found: np.ndarray, message: str
) -> None:
    value = weights.weight("w", lambda: found, shape=(3, 5), dtype=dtype)
    for read in (weights.read, weights.stored):
        with pytest.raises(GraphError, match="weight w: .*" + message):
            read(value)


def test_initializer_without_numbers_is_refused() -> None:
    for ask in (weights.read, weights.stored, weights.size_of, weights.num_bytes):
        with pytest.raises(GraphError, match="initializer w has no values; expected a weight"):
            ask(ir.Value(name="w"))


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (1, 1)], ids=str)
def test_type_of_less_than_a_byte_is_stored_in_the_bytes_it_was_computed_as(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    codes = rng.integers(16, size=shape, dtype=np.uint8)
    packed = pack_codes(codes.reshape(-1), bits=4)
    value = weights.weight("w", lambda: packed, shape=shape, dtype=ir.DataType.UINT4)
    assert weights.num_bytes(value) == packed.nbytes
    np.testing.assert_array_equal(weights.stored(value), packed)
    np.testing.assert_array_equal(weights.read(value).astype(np.uint8), codes)
    assert (
        unpack_codes(weights.stored(value), bits=4)[: codes.size].tolist()
        == codes.flatten().tolist()
    )


def test_stored_numbers_of_a_plain_tensor_are_its_numbers(normal: Callable) -> None:
    array = normal(3, 5)
    value = ir.Value(name="w", const_value=ir.tensor(array))
    np.testing.assert_array_equal(weights.stored(value), array)


def test_owner_is_the_first_of_a_chain_and_oneself_without_one(drawn: ir.Value) -> None:
    second, third = (weights.weight(name, lambda: None, shape=(24,)) for name in "bc")
    weights.mark_same(second, drawn)
    weights.mark_same(third, second)
    assert weights.owner(third) is drawn
    assert weights.owner(drawn) is drawn


def test_a_large_matrix_is_read_by_rows_and_a_small_one_whole(
    normal: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = normal(4, 6)
    value = weights.weight(
        "w", lambda: array, shape=(4, 6), compute_rows=lambda start, stop: array[start:stop]
    )
    assert isinstance(weights.matrix(value), np.ndarray)
    monkeypatch.setattr(weights, "WHOLE_BYTES", array.nbytes - 1)
    rows = weights.matrix(value)
    assert isinstance(rows, weights.Rows)
    assert (rows.shape, len(rows)) == ((4, 6), 4)
    np.testing.assert_array_equal(rows[1:9], array[1:])
    plain = weights.weight("w", lambda: array, shape=(4, 6))
    assert isinstance(weights.matrix(plain), np.ndarray)


@pytest.mark.parametrize("found", [np.zeros((2, 5), "f4"), np.zeros((2, 6), "f8")])
def test_rows_of_another_shape_or_type_are_refused(found: np.ndarray) -> None:
    rows = weights.Rows(lambda _start, _stop: found, shape=(4, 6))
    with pytest.raises(GraphError, match=r"rows 0 to 2 of \(4, 6\): computed as float"):
        rows[:2]
