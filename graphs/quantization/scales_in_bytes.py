"""Scales as a byte each, times a bfloat16 factor for a row: a quarter of float32's size.

A row's factor is its largest scale over 255, rounded up to bfloat16's 8 significant bits; the byte
of its largest scale is 255. So the product of a byte and a factor is exact in float32, and both
can be computed back from the products.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

LARGEST = 255
_LOW_BITS = np.uint32(0xFFFF)  # of a float32, those that bfloat16 lacks


def rounded_up(scales: np.ndarray) -> np.ndarray:
    """The smallest such scales that are no smaller, so that no code is clipped.

    Args:
        scales: (N, blocks) float32, none negative.
    """
    return _products(np.ceil, scales)


def rounded(scales: np.ndarray) -> np.ndarray:
    """The nearest such scales, but for the largest of a row, which is rounded up.

    None but a zero becomes zero. Arguments as of ``rounded_up``.
    """
    return _products(np.rint, scales)


def bytes_of(scales: np.ndarray) -> np.ndarray:
    """(N, blocks) uint8 of what ``rounded`` or ``rounded_up`` returned."""
    return np.asarray(np.rint(scales / _divisor(_factors(scales))), np.uint8)


def factors_of(scales: np.ndarray) -> np.ndarray:
    """(N, 1) bfloat16: what the bytes of each row are multiplied by; zero in a row of zeros."""
    return _factors(scales).astype(ml_dtypes.bfloat16)


def _products(to_whole: np.ufunc, scales: np.ndarray) -> np.ndarray:
    factors = _factors(scales)
    steps = np.clip(to_whole(scales / _divisor(factors)), 1, LARGEST)
    steps = np.where(scales == scales.max(axis=1, keepdims=True), np.float32(LARGEST), steps)
    return np.asarray(np.where(scales == 0, np.float32(0), steps * factors), np.float32)


def _factors(scales: np.ndarray) -> np.ndarray:
    exact = scales.max(axis=1, keepdims=True) / np.float32(LARGEST)
    bits = np.ascontiguousarray(exact, np.float32).view(np.uint32)
    return ((bits + _LOW_BITS) & ~_LOW_BITS).view(np.float32)


def _divisor(factors: np.ndarray) -> np.ndarray:
    return np.where(factors == 0, np.float32(1), factors)
