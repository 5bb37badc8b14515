"""Do kernels read a packed matrix as we do, in each of its layouts?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization import rounding_errors
from tramontane.graphs.quantization.codes import Blocks, dequantize
from tramontane.graphs.quantization.methods import round_to_nearest
from tramontane.graphs.quantization.methods.round_to_nearest import METHOD, quantize
from tramontane.graphs.quantization.packing.packed_weight import Packed
from tramontane.graphs.quantization.scheme import Scheme

ROUNDER = METHOD.rounder(None)

SCHEMES = [Scheme(bits=bits, block=block) for bits in (8, 4) for block in (32, 128)]
MULTIPLY = """(float[b,t,{K}] x) => (float[b,t,6] y)
<uint8[6,n,m] codes, float[6,n] scales {declared}> {{
    y = com.microsoft.MatMulNBits<K = {K}, N = 6, bits = {bits}, block_size = {block}>
        (x, codes, scales {given})
}}"""
GATHER = """(int64[b,t] ids) => (float[b,t,{K}] y)
<uint8[6,m] codes, float[6,n] scales {declared}> {{
    y = com.microsoft.GatherBlockQuantized
        <bits = {bits}, block_size = {block}, gather_axis = 0, quantize_axis = 1>
        (codes, ids, scales {given})
}}"""
UNPACK = """(float[6,1] x) => (float[6,{K}] y)
<{dtype}[6,{K}] codes, float[6,n] scales {declared}> {{
    read = DequantizeLinear<axis = 1, block_size = {block}>(codes, scales {given})
    y = Add(read, x)
}}"""
IDS = np.array([[0, 5, 3], [5, 1, 2]])

every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.bits}-{s.block}")
every_width = pytest.mark.parametrize("columns", [256, 172])


def pack(matrix: np.ndarray, scheme: Scheme) -> tuple[Packed, np.ndarray]:
    """A matrix packed, and what its codes stand for."""
    rounded = dequantize(quantize(matrix, scheme), scheme, columns=matrix.shape[1])
    return Packed(
        weights.weight("w", lambda: matrix, shape=matrix.shape), scheme, ROUNDER
    ), rounded


def fill(text: str, scheme: Scheme, columns: int, zero_points: str) -> str:
    """Write a scheme's numbers into a graph, and zero points where it has any."""
    return text.format(
        K=columns,
        bits=scheme.bits,
        block=scheme.block,
        dtype="int8" if scheme.is_symmetric else "uint4",
        declared="" if scheme.is_symmetric else f", {zero_points}",
        given="" if scheme.is_symmetric else ", zero_points",
    )


def numbers(*values: ir.Value | None) -> dict[str, np.ndarray]:
    """What initializers hold, by the names that the graphs above give them."""
    names = ("codes", "scales", "zero_points")
    return {n: weights.read(v) for n, v in zip(names, values, strict=True) if v is not None}


@every_scheme
@every_width
def test_multiplying_kernel_reads_codes_in_blocks_as_we_do(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    scheme: Scheme,
    columns: int,
) -> None:
    packed, rounded = pack(normal(6, columns) + 0.3, scheme)
    parts = numbers(packed.codes_in_blocks, packed.scales, packed.packed_zero_points)
    model = build(fill(MULTIPLY, scheme, columns, "uint8[6,z] zero_points"), **parts)
    x = normal(2, 3, columns)
    assert_agree(evaluate(model, x=x), {"y": x @ rounded.T})


@every_scheme
@every_width
def test_gathering_kernel_reads_codes_in_rows_as_we_do(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    scheme: Scheme,
    columns: int,
) -> None:
    packed, rounded = pack(normal(6, columns) + 0.3, scheme)
    parts = numbers(packed.codes_in_rows, packed.scales, packed.packed_zero_points)
    model = build(fill(GATHER, scheme, columns, "uint8[6,z] zero_points"), **parts)
    assert_agree(evaluate(model, ids=IDS), {"y": rounded[IDS]})


@every_scheme
@every_width
def test_standard_operator_reads_elements_as_we_do(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    scheme: Scheme,
    columns: int,
) -> None:
    packed, rounded = pack(normal(6, columns) + 0.3, scheme)
    elements = packed.elements
    parts = numbers(elements, packed.scales, None)
    if not scheme.is_symmetric:
        parts["zero_points"] = weights.read(packed.zero_points).astype(parts["codes"].dtype)
    model = build(fill(UNPACK, scheme, columns, "uint4[6,n] zero_points"), **parts)
    assert_agree(evaluate(model, x=np.zeros((6, 1), np.float32)), {"y": rounded})


def test_another_zero_point_is_read_as_other_numbers(
    build: Callable, evaluate: Callable, assert_agree: Callable, normal: Callable
) -> None:
    scheme, x = SCHEMES[-1], normal(2, 3, 256)
    packed, rounded = pack(normal(6, 256) + 0.3, scheme)
    parts = numbers(packed.codes_in_blocks, packed.scales, packed.packed_zero_points)
    parts["zero_points"][3, 0] ^= 0x10  # of the row's second block
    model = build(fill(MULTIPLY, scheme, 256, "uint8[6,z] zero_points"), **parts)
    with pytest.raises(AssertionError, match="y"):
        assert_agree(evaluate(model, x=x), {"y": x @ rounded.T})


@every_scheme
@every_width
def test_layouts_that_share_bytes_hold_the_same(
    normal: Callable, scheme: Scheme, columns: int
) -> None:
    packed, _ = pack(normal(6, columns), scheme)
    layouts = [packed.codes_in_blocks, packed.codes_in_rows, packed.elements]
    contents = [weights.stored(value).tobytes() for value in layouts]
    owners = [weights.owner(value) for value in layouts]
    for one, first in enumerate(owners):
        for other, second in enumerate(owners):
            if first is second:
                assert contents[one] == contents[other]


@every_scheme
@pytest.mark.parametrize("first", ["elements", "codes_in_rows", "codes_in_blocks"])
def test_owner_of_bytes_does_not_depend_on_who_asks_first(
    normal: Callable, scheme: Scheme, first: str
) -> None:
    packed, _ = pack(normal(6, 256), scheme)
    getattr(packed, first)
    assert weights.owner(packed.codes_in_rows) is packed.codes_in_blocks
    expected = packed.elements if scheme.is_symmetric else packed.codes_in_blocks
    assert weights.owner(packed.elements) is expected


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_with_a_short_block_share_nothing_with_filled_ones(
    normal: Callable, bits: int
) -> None:
    packed, _ = pack(normal(6, 172), Scheme(bits=bits, block=32))
    assert weights.num_bytes(packed.codes_in_blocks) == 6 * 192 * bits // 8
    assert weights.num_bytes(packed.codes_in_rows) == 6 * 172 * bits // 8
    assert weights.owner(packed.codes_in_rows) is packed.codes_in_rows


@every_scheme
def test_all_parts_read_in_turn_round_the_matrix_once(normal: Callable, scheme: Scheme) -> None:
    calls = []
    matrix = normal(6, 172)

    def rounder(*given: Any) -> Blocks:
        calls.append(given)
        return ROUNDER(*given)

    packed = Packed(weights.weight("w", lambda: matrix, shape=matrix.shape), scheme, rounder)
    for part in (packed.codes_in_blocks, packed.scales, packed.packed_zero_points):
        if part is not None:
            weights.read(part)
    assert [(given[0] is matrix, *given[1:]) for given in calls] == [(True, scheme, "w")]


@pytest.mark.parametrize("scheme", [*SCHEMES, Scheme(bits=4, block=32, scales="uint8")])
def test_rows_that_are_read_when_they_are_rounded_give_the_same_bytes_and_errors(
    normal: Callable, scheme: Scheme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = normal(40, 172)
    monkeypatch.setattr(round_to_nearest, "_SLICE_WEIGHTS", 3 * 172)
    monkeypatch.setattr(rounding_errors, "_SLICE_WEIGHTS", 7 * 172)
    found = []
    for most in (matrix.nbytes, 0):
        monkeypatch.setattr(weights, "WHOLE_BYTES", most)
        errors = rounding_errors.RoundingErrors(tmp_path)
        taken: list[int] = []

        def rows(start: int, stop: int, taken: list[int] = taken) -> np.ndarray:
            taken.append(stop - start)
            return matrix[start:stop]

        value = weights.weight("w", lambda: matrix, shape=matrix.shape, compute_rows=rows)
        packed = Packed(value, scheme, errors.noting(ROUNDER))
        parts = (packed.codes_in_blocks, packed.scales, packed.packed_zero_points)
        stored = [weights.stored(part).tobytes() for part in parts if part is not None]
        found.append((stored, errors.read()))
        assert max(taken, default=0) == (0 if most else 7)
    assert found[0] == found[1]


@every_scheme
@every_width
def test_sizes_are_known_before_a_number_is_computed(scheme: Scheme, columns: int) -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("asked for its numbers")

    packed = Packed(weights.weight("w", refuse, shape=(6, columns)), scheme, ROUNDER)
    blocks = -(-columns // scheme.block)
    assert weights.size_of(packed.scales) == (6, blocks)
    assert weights.size_of(packed.elements) == (6, columns)
    assert weights.num_bytes(packed.elements) == 6 * columns * scheme.bits // 8
    assert weights.num_bytes(packed.zero_points) == 6 * blocks
    size = (packed.rows, packed.columns)
    assert weights.packing(packed.elements) == (scheme.bits, scheme.block, size)
    assert weights.is_scales(packed.scales)
    assert weights.packing(packed.scales) is None


def test_notes_of_errors_that_a_power_loss_left_are_left_out(tmp_path: Path) -> None:
    errors = rounding_errors.RoundingErrors(tmp_path)
    (tmp_path / "rounding_errors.jsonl").write_bytes(
        b'["a", 0.5]\n5\n[[], 1]\n["b", "x"]\n\xff\xfe\n["a", 0.25]\n["c", 0'
    )
    assert errors.read() == {"a": 0.25}
