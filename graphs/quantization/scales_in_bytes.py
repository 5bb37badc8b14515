"""Scales as a byte each, times one float32 factor for a row: a quarter of float32's size.

A row's factor is its largest scale over 255, rounded up to 16 significant bits. So the product of
a byte and a factor is exact in float32, and both can be computed back from the products. (numpy
only)
"""

from __future__ import annotations

import numpy as np

LARGEST = 255
_LOW_BITS = np.uint32(0xFF)  # of float32's 24 significant bits, those beyond 16


def rounded_up(scales: np.ndarray) -> np.ndarray:
    """The smallest such scales that are no smaller, so that no code is clipped.

    Args:
        scales: (N, blocks) float32, none negative.
    """
    return _products(np.ceil, scales)


def rounded(scales: np.ndarray) -> np.ndarray:
    """The nearest such scales; none but a zero becomes zero. Arguments as of ``rounded_up``."""
    return _products(np.rint, scales)


def bytes_of(scales: np.ndarray) -> np.ndarray:
    """(N, blocks) uint8 of what ``rounded`` or ``rounded_up`` returned."""
    return np.asarray(np.rint(scales / _divisor(factors_of(scales))), np.uint8)


def factors_of(scales: np.ndarray) -> np.ndarray:
    """(N, 1) float32: what the bytes of each row are multiplied by; zero in a row of zeros."""
    exact = scales.max(axis=1, keepdims=True) / np.float32(LARGEST)
    bits = np.ascontiguousarray(exact, np.float32).view(np.uint32)
    return ((bits + _LOW_BITS) & ~_LOW_BITS).view(np.float32)


def _products(to_whole: np.ufunc, scales: np.ndarray) -> np.ndarray:
    factors = factors_of(scales)
    steps = to_whole(scales / _divisor(factors))
    steps = np.where(scales == 0, np.float32(0), np.clip(steps, 1, LARGEST))
    return np.asarray(steps * factors, np.float32)


def _divisor(factors: np.ndarray) -> np.ndarray:
    return np.where(factors == 0, np.float32(1), factors)
