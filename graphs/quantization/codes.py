"""What the codes of a quantized matrix mean, and how short codes lie in bytes.

A matrix (N, K) is cut along K into blocks. The last block of a row may be short: it is filled
with codes of zero, which add nothing. Each block has one float32 scale.

8 bits: a weight is ``(code - 128) * scale`` with codes 1 to 255, so zero is exact.

4 and 2 bits: a weight is ``(code - zero_point) * scale`` with codes from 0; zero is exact, since
its code is whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .scheme import Scheme

MIDDLE = 128  # the code of 0 in 8 bits: what onnxruntime assumes where no zero points are given
LARGEST = 127  # steps of 8 bits on either side of zero


class Blocks(NamedTuple):
    """A matrix in blocks; codes of 4 and 2 bits share bytes, the first in the lowest bits."""

    codes: np.ndarray  # (N, blocks, block * bits / 8) uint8
    scales: np.ndarray  # (N, blocks) float32
    zero_points: np.ndarray  # (N, blocks) uint8


def dequantize(blocks: Blocks, scheme: Scheme, *, columns: int) -> np.ndarray:
    """The (N, K) float32 matrix that blocks stand for, K being ``columns``."""
    codes = unpack_codes(blocks.codes, bits=scheme.bits)
    steps = codes.astype(np.float32) - blocks.zero_points[:, :, None].astype(np.float32)
    weights = (steps * blocks.scales[:, :, None]).reshape(len(codes), -1)
    return np.asarray(weights[:, :columns])


def steps_of(bits: int) -> int:
    """Steps between the smallest and the largest code."""
    return (1 << bits) - 1


def pack_codes(codes: np.ndarray, *, bits: int) -> np.ndarray:
    """Codes (..., n) uint8 with as many to a byte as fit: (..., ceil(n * bits / 8)) uint8."""
    per_byte = 8 // bits
    packed = codes[..., ::per_byte].copy()
    for place in range(1, per_byte):
        others = codes[..., place::per_byte]
        packed[..., : others.shape[-1]] |= others << (bits * place)
    return packed


def unpack_codes(packed: np.ndarray, *, bits: int) -> np.ndarray:
    """Bytes (..., n) uint8 to codes (..., n * 8 / bits) uint8."""
    codes = [(packed >> place) & steps_of(bits) for place in range(0, 8, bits)]
    return np.stack(codes, axis=-1).reshape(*packed.shape[:-1], -1)
