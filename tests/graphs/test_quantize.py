"""How close are weights in 8 bits to what they were?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs.quantize import ZERO_POINT, block_for, dequantize_blocks, quantize_blocks

BLOCK = 128


@pytest.mark.parametrize(("columns", "block"), [(128, 128), (256, 128), (192, 64), (48, 16)])
def test_error_is_at_most_half_a_step_of_its_block(
    normal: Callable, columns: int, block: int
) -> None:
    matrix = normal(16, columns) * np.logspace(-4, 4, 16, dtype=np.float32)[:, None]
    codes, scales = quantize_blocks(matrix, block=block)
    error = np.abs(dequantize_blocks(codes, scales) - matrix)
    half_steps = np.repeat(scales, block, axis=1) / 2
    assert (error <= half_steps * 1.0001).all()  # a tie may fall a few ulp beyond
    assert error.max() > 0


def test_zero_is_exact_between_other_numbers(normal: Callable) -> None:
    matrix = normal(4, 256)
    matrix[:, ::3] = 0
    found = dequantize_blocks(*quantize_blocks(matrix, block=BLOCK))
    assert (found[:, ::3] == 0).all()


def test_largest_magnitude_of_a_block_takes_the_last_code(normal: Callable) -> None:
    matrix = normal(4, 256)
    codes, _ = quantize_blocks(matrix, block=BLOCK)
    largest = np.abs(matrix.reshape(4, 2, BLOCK)).argmax(axis=2)
    at_largest = np.take_along_axis(codes, largest[:, :, None], axis=2)
    assert set(at_largest.flatten()) <= {1, 255}
    assert codes.min() >= 1


def test_block_of_zeros_stays_zero_beside_another(normal: Callable) -> None:
    matrix = normal(2, 256)
    matrix[0, :BLOCK] = 0
    codes, scales = quantize_blocks(matrix, block=BLOCK)
    assert scales[0, 0] == 0
    assert (codes[0, 0] == ZERO_POINT).all()
    found = dequantize_blocks(codes, scales)
    assert (found[0, :BLOCK] == 0).all()
    assert (found[0, BLOCK:] != 0).any()


@pytest.mark.parametrize(
    ("columns", "block"), [(4096, 128), (192, 64), (96, 32), (80, 16), (200, None), (127, None)]
)
def test_block_is_the_largest_that_divides_a_row(columns: int, block: int | None) -> None:
    assert block_for(columns) == block


def test_codes_and_scales_lie_block_by_block(normal: Callable) -> None:
    codes, scales = quantize_blocks(normal(3, 256), block=BLOCK)
    assert (codes.shape, codes.dtype) == ((3, 2, BLOCK), np.uint8)
    assert (scales.shape, scales.dtype) == ((3, 2), np.float32)


def test_blocks_do_not_share_a_scale() -> None:
    matrix = np.ones((1, 256), dtype=np.float32)
    matrix[0, BLOCK:] = 1000
    _, scales = quantize_blocks(matrix, block=BLOCK)
    np.testing.assert_allclose(scales, [[1 / 127, 1000 / 127]], rtol=1e-6)
