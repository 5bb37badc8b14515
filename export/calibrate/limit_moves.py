"""Rounds the few weights to nearest that would lie farther from their own values than is allowed.

A weight that makes up for the rounding of many others moves by several steps. How far it may is
``weight_errors`` of the method, which the parity check holds every matrix to; without a limit,
single weights of 2 of the 212 matrices of SmolLM2-135M were beyond it.
"""

from __future__ import annotations

import numpy as np

from ...graphs.quantization.codes import (
    LARGEST,
    MIDDLE,
    Blocks,
    pack_codes,
    steps_of,
    unpack_codes,
)
from ...graphs.quantization.methods.all_methods import find_method
from ...graphs.quantization.scheme import Scheme


def limited(blocks: Blocks, matrix: np.ndarray, scheme: Scheme) -> Blocks:
    """The same blocks, where no weight moves farther than the method's bound.

    Args:
        blocks: as the method rounded the matrix.
        matrix: (N, K) float32, whose weights they stand for.
        scheme: bits, block and method.
    """
    bound = find_method(scheme.method).weight_errors[scheme.bits]
    missing = -matrix.shape[1] % scheme.block
    weights = np.pad(matrix, ((0, 0), (0, missing))).reshape(len(matrix), -1, scheme.block)
    codes = unpack_codes(blocks.codes, bits=scheme.bits)
    scales, zeros = (each[:, :, None] for each in (blocks.scales, blocks.zero_points))
    zeros = zeros.astype(np.float32)
    sizes = np.abs(weights).max(axis=2, keepdims=True)
    sizes = np.where(sizes == 0, sizes.max(axis=1, keepdims=True), sizes)
    is_far = np.abs((codes - zeros) * scales - weights) > bound * sizes
    if not is_far.any():
        return blocks
    low, high = (1, MIDDLE + LARGEST) if scheme.is_symmetric else (0, steps_of(scheme.bits))
    nearest = np.rint(weights / np.where(scales == 0, np.float32(1), scales)) + zeros
    chosen = np.where(is_far, np.clip(nearest, low, high), codes).astype(np.uint8)
    return blocks._replace(codes=pack_codes(chosen, bits=scheme.bits))
