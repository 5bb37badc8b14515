"""How are weights rounded to 8 or 4 bits, and what do the codes mean?

A matrix (N, K) is cut along K into blocks. The last block of a row may be short: it is filled
with codes of zero, which add nothing. Each block has one float32 scale.

8 bits: a weight is ``(code - 128) * scale`` with codes 1 to 255, so zero is exact and a block's
largest magnitude is met exactly.

4 bits: a weight is ``(code - zero_point) * scale`` with codes 0 to 15. A block's range, widened
to hold zero, is cut into 15 steps; zero is exact, since its code is whole.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_MIDDLE = 128  # the code of 0 in 8 bits: what onnxruntime assumes where no zero points are given
_LARGEST = 127
_STEPS = 15  # between the 16 codes of 4 bits
_MOST_THREADS = 8  # each holds a slice in hand, and the disk has to keep up
_SLICE_WEIGHTS = 1 << 19  # rounded at once by one thread: what a core can keep near


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How a matrix is rounded."""

    bits: int  # 8 or 4
    block: int  # weights that share a scale

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is the same code in all blocks, so that none need be stored."""
        return self.bits == 8

    def blocks_of(self, columns: int) -> int:
        """Blocks of one row, the last of them possibly short."""
        return -(-columns // self.block)


class Blocks(NamedTuple):
    """A matrix in blocks; codes of 4 bits lie two to a byte, the first in the low bits."""

    codes: np.ndarray  # (N, blocks, block * bits / 8) uint8
    scales: np.ndarray  # (N, blocks) float32
    zero_points: np.ndarray  # (N, blocks) uint8


def quantize(matrix: np.ndarray, scheme: Scheme) -> Blocks:
    """Round each weight of (N, K) float32 to the nearest of its block's steps.

    Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits, for the layout.
    """
    N, K = matrix.shape
    blocks = scheme.blocks_of(K)
    found = Blocks(
        codes=np.empty((N, blocks, scheme.block * scheme.bits // 8), np.uint8),
        scales=np.empty((N, blocks), np.float32),
        zero_points=np.empty((N, blocks), np.uint8),
    )

    def fill(rows: slice) -> None:
        for whole, part in zip(found, _round(_cut(matrix[rows], scheme), scheme), strict=True):
            whole[rows] = part

    for _ in _threads().map(fill, _slices(N, rows=max(1, _SLICE_WEIGHTS // K))):
        pass
    return found


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


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """One for each core: numpy lets others run while it computes.

    Kept for all matrices, since memory that a thread has freed is not another's.
    """
    return ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS))


def _slices(length: int, *, rows: int) -> Iterator[slice]:
    return (slice(start, start + rows) for start in range(0, length, rows))


def _cut(rows: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Rows (n, K) as (n, blocks, block), zeros after the last weight."""
    n, K = rows.shape
    missing = -K % scheme.block
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)))
    return rows.reshape(n, -1, scheme.block)


def _round(blocks: np.ndarray, scheme: Scheme) -> Blocks:
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    if scheme.is_symmetric:
        scales = np.maximum(high, -low) / np.float32(_LARGEST)
        zero_points = np.full_like(scales, _MIDDLE)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = (high - low) / np.float32(_STEPS)
        zero_points = np.rint(-low / _divisor(scales))
    codes = blocks / _divisor(scales)[:, :, None]
    np.rint(codes, out=codes)
    codes += zero_points[:, :, None]
    # Two things lead one out: a scale too small for float32's full precision, and in 4 bits a
    # block whose zero and whose end both fall halfway between codes.
    np.clip(codes, *((1, 255) if scheme.is_symmetric else (0, _STEPS)), out=codes)
    packed = codes.astype(np.uint8)
    return Blocks(
        codes=packed if scheme.bits == 8 else pack_nibbles(packed),
        scales=scales,
        zero_points=zero_points.astype(np.uint8),
    )


def _divisor(scales: np.ndarray) -> np.ndarray:
    """Scales; one for a block of zeros, whose codes are zero's whatever divides them."""
    return np.where(scales == 0, np.float32(1), scales)
