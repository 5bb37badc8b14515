"""What the codes of a quantized matrix mean, and how 4-bit codes lie in bytes.

A matrix (N, K) is cut along K into blocks. The last block of a row may be short: it is filled
with codes of zero, which add nothing. Each block has one float32 scale.

8 bits: a weight is ``(code - 128) * scale`` with codes 1 to 255, so zero is exact.

4 bits: a weight is ``(code - zero_point) * scale`` with codes 0 to 15; zero is exact, since its
code is whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .scheme import Scheme

MIDDLE = 128  # the code of 0 in 8 bits: what onnxruntime assumes where no zero points are given
LARGEST = 127  # steps of 8 bits on either side of zero
STEPS = 15  # between the 16 codes of 4 bits


class Blocks(NamedTuple):
    """A matrix in blocks; codes of 4 bits lie two to a byte, the first in the low bits."""

    codes: np.ndarray  # (N, blocks, block * bits / 8) uint8
    scales: np.ndarray  # (N, blocks) float32
    zero_points: np.ndarray  # (N, blocks) uint8


def dequantize(blocks: Blocks, scheme: Scheme, *, columns: int) -> np.ndarray:
    """The (N, K) float32 matrix that blocks stand for, K being ``columns``."""
    codes = blocks.codes if scheme.bits == 8 else unpack_nibbles(blocks.codes)
    steps = codes.astype(np.float32) - blocks.zero_points[:, :, None].astype(np.float32)
    weights = (steps * blocks.scales[:, :, None]).reshape(len(codes), -1)
    return np.asarray(weights[:, :columns])


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Codes of 4 bits (..., n) uint8, two to a byte: (..., ceil(n / 2)), the first one low."""
    low, high = codes[..., ::2], codes[..., 1::2]
    packed = low.copy()
    packed[..., : high.shape[-1]] |= high << 4
    return packed


def unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    """Bytes (..., n) uint8 to codes (..., 2 n) uint8."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
