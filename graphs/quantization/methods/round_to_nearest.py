"""Round each weight to the nearest of its block's steps.

8 bits: the largest magnitude of a block is met exactly. 4 bits: a block's range, widened to hold
zero, is cut into 15 steps. 2 bits: the same range, or a part of it that has the smallest squared
error, is cut into 3. ``codes.py`` says what the codes mean.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np

from ...weights import Matrix
from ..activation_ranges import Calibration
from ..codes import LARGEST, MIDDLE, Blocks, pack_codes, steps_of
from ..scales_in_bytes import rounded_up
from ..scheme import FLOAT_SCALES, Scheme
from .method import Method, Rounder

_MOST_THREADS = 8  # each holds a slice in hand, and the disk has to keep up
_SLICE_WEIGHTS = 1 << 19  # rounded at once by one thread: what a core can keep near
# Of a block's range, in 2 bits: what is tried. Few codes make large weights cost all others dear.
_PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


class RoundToNearest(Method):
    """Observes nothing."""

    # Half of a step, and 1 % of it for the last bit of the scale. 8 bits have 127 steps on either
    # side of zero; 4 bits have 15 in all, so half of one is a fifteenth of a block's largest
    # weight where the block reaches as far on both sides. In 2 bits the largest weights may lie
    # beyond half of the range, and there half a step is a sixth.
    weight_errors: ClassVar[Mapping[int, float]] = {
        8: 0.5 / LARGEST * 1.01,
        4: 1 / steps_of(4) * 1.01,
        2: (1 - _PARTS[-1] + 1 / 6) * 1.01,
    }

    def rounder(
        self,
        calibration: Calibration | None,  # noqa: ARG002 - nothing is observed
    ) -> Rounder:
        """The same function for every matrix."""
        return _round_any


METHOD = RoundToNearest()


def quantize(matrix: Matrix, scheme: Scheme) -> Blocks:
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


def _round_any(matrix: Matrix, scheme: Scheme, _name: str) -> Blocks:
    return quantize(matrix, scheme)


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
    """Blocks (n, blocks, block) as codes."""
    part = _best_part(blocks, scheme) if scheme.bits == 2 else np.float32(1)
    codes, scales, zero_points = _in_part(blocks, scheme, part)
    return Blocks(
        codes=pack_codes(codes.astype(np.uint8), bits=scheme.bits),
        scales=scales,
        zero_points=zero_points.astype(np.uint8),
    )


def _best_part(blocks: np.ndarray, scheme: Scheme) -> np.ndarray:
    """(n, blocks) float32: the part of each block's range that has the smallest squared error."""
    exact = dataclasses.replace(scheme, scales=FLOAT_SCALES)  # bytes depend on all of a row's
    squares = np.stack(
        [_squares(blocks, *_in_part(blocks, exact, np.float32(part))) for part in _PARTS]
    )
    best: np.ndarray = np.asarray(_PARTS, np.float32)[squares.argmin(axis=0)]
    return best


def _in_part(
    blocks: np.ndarray, scheme: Scheme, part: np.ndarray | np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and zero points, for a part of each block's range."""
    low, high = blocks.min(axis=2) * part, blocks.max(axis=2) * part
    if scheme.is_symmetric:
        scales = _as_stored(np.maximum(high, -low) / np.float32(LARGEST), scheme)
        zero_points = np.full_like(scales, MIDDLE)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = _as_stored((high - low) / np.float32(steps_of(scheme.bits)), scheme)
        zero_points = np.rint(-low / _divisor(scales))
    codes = blocks / _divisor(scales)[:, :, None]
    np.rint(codes, out=codes)
    codes += zero_points[:, :, None]
    # Three things lead one out: a scale too small for float32's full precision, a block whose zero
    # and whose end both fall halfway between codes, and a part that is not the whole range.
    np.clip(codes, *((1, 255) if scheme.is_symmetric else (0, steps_of(scheme.bits))), out=codes)
    return codes, scales, zero_points


def _squares(
    blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray
) -> np.ndarray:
    """(n, blocks): squared errors of each block, added up."""
    rounded = (codes - zero_points[:, :, None]) * scales[:, :, None]
    return np.asarray(np.square(rounded - blocks).sum(axis=2))


def _as_stored(scales: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Scales (N, blocks) that can be stored, none smaller: so no weight is clipped."""
    return rounded_up(scales) if scheme.has_byte_scales else scales


def _divisor(scales: np.ndarray) -> np.ndarray:
    """Scales; one for a block of zeros, whose codes are zero's whatever divides them."""
    return np.where(scales == 0, np.float32(1), scales)
