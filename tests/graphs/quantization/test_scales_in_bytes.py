"""Scales as bytes times a factor for a row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs.quantization.scales_in_bytes import (
    bytes_of,
    factors_of,
    rounded,
    rounded_up,
)

Round = Callable[[np.ndarray], np.ndarray]
WAYS: list[Round] = [rounded, rounded_up]


def scales_of(rows: int = 300, blocks: int = 40) -> np.ndarray:
    """Scales of very different sizes, a row of zeros and single ones."""
    rng = np.random.default_rng(0)
    found = np.exp(rng.normal(size=(rows, blocks)) * 2 - 5).astype(np.float32)
    found[3] = 0
    found[4, 1:] = 0
    found[5, ::2] = 0
    found[6] *= np.float32(1e-30)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_products_of_bytes_and_factors_are_exactly_the_scales(way: Round) -> None:
    made = way(scales_of())
    codes, factors = bytes_of(made), factors_of(made)
    assert (codes.dtype, factors.dtype.name, factors.shape) == (np.uint8, "bfloat16", (300, 1))
    exact = codes.astype(np.float64) * factors.astype(np.float64)
    np.testing.assert_array_equal(made, exact)
    np.testing.assert_array_equal(made, codes.astype(np.float32) * factors.astype(np.float32))
    np.testing.assert_array_equal(way(made), made)  # a second time changes nothing


@pytest.mark.parametrize("way", WAYS)
def test_zeros_stay_and_nothing_else_becomes_zero(way: Round) -> None:
    scales = scales_of()
    np.testing.assert_array_equal(way(scales) == 0, scales == 0)


def test_largest_of_a_row_has_the_largest_byte() -> None:
    made = rounded(scales_of())
    largest = bytes_of(made).max(axis=1)
    assert set(np.delete(largest, 3)) == {255}
    assert largest[3] == 0


def test_scales_are_off_by_half_a_step_or_one_upwards() -> None:
    scales = scales_of().astype(np.float64)
    step = factors_of(scales_of()).astype(np.float64)
    largest = scales == scales.max(axis=1, keepdims=True)
    fits = (scales >= step) & ~largest  # those below one step get a whole one
    nearest = np.abs(rounded(scales_of()) - scales)
    assert (nearest <= 0.5000001 * step)[fits].all()
    up = rounded_up(scales_of()) - scales
    assert (up >= -1e-7 * scales).all()
    assert (up <= 1.0001 * step)[~largest].all()
    assert (up <= scales / 127)[largest].all()
