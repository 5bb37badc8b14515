"""How close are weights in 8 and in 4 bits to what they were?"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs.quantization.codes import Blocks, dequantize, unpack_codes
from tramontane.graphs.quantization.methods import round_to_nearest as quantizing
from tramontane.graphs.quantization.methods.round_to_nearest import METHOD, quantize
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.validate.layer_checks.findings import block_errors

SCHEMES = [Scheme(bits=bits, block=block) for bits in (8, 4) for block in (16, 32, 128)]
COLUMNS = [16, 172, 256]  # less than a block, a short last block, whole blocks alone

every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.bits}-{s.block}")
every_width = pytest.mark.parametrize("columns", COLUMNS)


def half_steps(blocks: Blocks, scheme: Scheme, columns: int) -> np.ndarray:
    """How far a weight may lie from its own; a tie may fall a few ulp beyond."""
    return np.repeat(blocks.scales, scheme.block, axis=1)[:, :columns] / 2 * 1.0001


def assert_close(matrix: np.ndarray, scheme: Scheme) -> None:
    columns = matrix.shape[1]
    blocks = quantize(matrix, scheme)
    error = np.abs(dequantize(blocks, scheme, columns=columns) - matrix)
    assert (error <= half_steps(blocks, scheme, columns)).all()


@every_scheme
@every_width
def test_error_is_at_most_half_a_step_of_its_block(
    normal: Callable, scheme: Scheme, columns: int
) -> None:
    magnitudes = np.logspace(-4, 4, 16, dtype=np.float32)[:, None]
    assert_close(normal(16, columns) * magnitudes, scheme)


@every_scheme
@every_width
def test_bound_that_the_method_promises_holds_and_is_not_half_too_wide(
    normal: Callable, scheme: Scheme, columns: int
) -> None:
    matrix = normal(64, columns)
    found = dequantize(METHOD.rounder(None)(matrix, scheme, "w"), scheme, columns=columns)
    errors = block_errors(matrix, found, scheme.block)
    bound = METHOD.weight_errors[scheme.bits]
    assert (errors <= bound).all()
    assert errors.max() > bound / 2


@every_scheme
def test_step_is_no_longer_than_a_block_s_range_asks(normal: Callable, scheme: Scheme) -> None:
    matrix = normal(4, scheme.block)
    low, high = matrix.min(axis=1), matrix.max(axis=1)
    longest = np.maximum(high, -low) / 127 if scheme.bits == 8 else (high - low) / 15
    np.testing.assert_allclose(quantize(matrix, scheme).scales[:, 0], longest, rtol=1e-6)


@every_scheme
@pytest.mark.parametrize(
    "one_sided",
    [
        lambda x: np.abs(x) + 3,
        lambda x: -np.abs(x) - 3,
        lambda x: np.full_like(x, 0.3),
        lambda x: np.full_like(x, -0.3),
        lambda x: np.where(np.arange(x.shape[1]) == 5, x, 0),
    ],
    ids=["positive", "negative", "constant", "negative constant", "one weight"],
)
def test_block_on_one_side_of_zero_is_as_close(
    normal: Callable, scheme: Scheme, one_sided: Callable
) -> None:
    assert_close(one_sided(normal(4, 172)), scheme)


def test_two_ties_that_would_need_a_seventeenth_code_share_the_last() -> None:
    scheme = Scheme(bits=4, block=16)
    matrix = np.array([[-7.5, 7.5, *range(-7, 7)]], dtype=np.float32)
    blocks = quantize(matrix, scheme)
    assert blocks.scales == 1
    assert blocks.zero_points == 8
    assert unpack_codes(blocks.codes, bits=4)[0, 0].tolist() == [0, 15, *range(1, 15)]
    assert_close(matrix, scheme)


@every_scheme
@every_width
def test_zero_is_exact_between_other_numbers(
    normal: Callable, scheme: Scheme, columns: int
) -> None:
    matrix = normal(4, columns) + 1
    matrix[:, ::3] = 0
    found = dequantize(quantize(matrix, scheme), scheme, columns=columns)
    assert (found[:, ::3] == 0).all()
    assert (found != 0).any()


@every_scheme
def test_block_of_zeros_stays_zero_beside_another(normal: Callable, scheme: Scheme) -> None:
    matrix = normal(2, 2 * scheme.block)
    matrix[0, : scheme.block] = 0
    blocks = quantize(matrix, scheme)
    assert blocks.scales[0, 0] == 0
    found = dequantize(blocks, scheme, columns=2 * scheme.block)
    assert (found[0, : scheme.block] == 0).all()
    assert (found[0, scheme.block :] != 0).any()


@pytest.mark.parametrize("bits", [8, 4])
def test_magnitudes_below_the_smallest_normal_number_keep_their_sign(bits: int) -> None:
    units = np.array([[180, -180, 90, 45] * 4], dtype=np.int32)
    matrix = np.abs(units).view(np.float32) * np.sign(units).astype(np.float32)
    scheme = Scheme(bits=bits, block=16)
    found = dequantize(quantize(matrix, scheme), scheme, columns=16)
    assert (found * np.sign(matrix) >= 0).all()


def test_largest_magnitude_of_a_block_is_met_exactly_in_8_bits(normal: Callable) -> None:
    scheme = Scheme(bits=8, block=32)
    matrix = normal(4, 172)
    codes = quantize(matrix, scheme).codes
    largest = np.abs(np.pad(matrix, ((0, 0), (0, 20))).reshape(4, 6, 32)).argmax(axis=2)
    at_largest = np.take_along_axis(codes, largest[:, :, None], axis=2)
    assert set(at_largest.flatten().tolist()) == {1, 255}
    assert codes.min() == 1


@every_scheme
@pytest.mark.parametrize("shift", [0, 5], ids=["around zero", "above zero"])
def test_codes_that_fill_a_short_block_are_zeros_and_add_nothing_to_its_range(
    normal: Callable, scheme: Scheme, shift: int
) -> None:
    columns = scheme.block + 12
    matrix = normal(3, columns) + np.float32(shift)
    blocks = quantize(matrix, scheme)
    filled = dequantize(blocks, scheme, columns=2 * scheme.block)
    assert (filled[:, columns:] == 0).all()
    assert (filled[:, :columns] != 0).any(axis=1).all()
    alone = quantize(matrix[:, scheme.block :], scheme)
    np.testing.assert_array_equal(blocks.scales[:, 1:], alone.scales)


@every_scheme
@every_width
def test_codes_scales_and_zero_points_lie_block_by_block(
    normal: Callable, scheme: Scheme, columns: int
) -> None:
    codes, scales, zero_points = quantize(normal(3, columns), scheme)
    blocks = -(-columns // scheme.block)
    block_bytes = scheme.block * scheme.bits // 8
    assert (codes.shape, codes.dtype) == ((3, blocks, block_bytes), np.uint8)
    assert (scales.shape, scales.dtype) == ((3, blocks), np.float32)
    assert (zero_points.shape, zero_points.dtype) == ((3, blocks), np.uint8)
    assert zero_points.max() <= (128 if scheme.is_symmetric else 15)


@every_scheme
def test_blocks_do_not_share_a_scale(scheme: Scheme) -> None:
    matrix = np.ones((1, 2 * scheme.block), dtype=np.float32)
    matrix[0, scheme.block :] = 1000
    scales = quantize(matrix, scheme).scales
    np.testing.assert_allclose(scales[:, 1], 1000 * scales[:, 0], rtol=1e-6)


@every_scheme
@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("slice_weights", [1, 172 * 5, 1 << 30])
def test_no_code_depends_on_slices_or_threads(
    normal: Callable,
    monkeypatch: pytest.MonkeyPatch,
    scheme: Scheme,
    cores: int,
    slice_weights: int,
) -> None:
    matrix = normal(16, 172)
    expected = quantize(matrix, scheme)
    monkeypatch.setattr(quantizing, "_SLICE_WEIGHTS", slice_weights)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    for found, part in zip(quantize(matrix, scheme), expected, strict=True):
        np.testing.assert_array_equal(found, part)


def test_matrix_that_is_a_view_is_rounded_as_its_copy(normal: Callable) -> None:
    matrix = normal(172, 8).T
    for scheme in SCHEMES:
        for found, part in zip(
            quantize(matrix, scheme), quantize(matrix.copy(), scheme), strict=True
        ):
            np.testing.assert_array_equal(found, part)
