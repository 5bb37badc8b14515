"""Tests of the limit on how far a weight may move: as far as the parity check allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tramontane.export.calibrate.compensate import STRENGTH, compensated
from tramontane.export.calibrate.gptq import correlations, gptq
from tramontane.export.calibrate.limit_moves import limited
from tramontane.export.calibrate.round_layer import _compensated
from tramontane.graphs.quantization.codes import Blocks, dequantize, unpack_codes
from tramontane.graphs.quantization.methods.gptq import METHOD
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.scheme import BYTE_SCALES, Scheme
from tramontane.validate.layer_checks.findings import block_errors

SCHEMES = [
    Scheme(bits=4, block=32, method="gptq"),
    Scheme(bits=4, block=32, method="gptq", scales=BYTE_SCALES),
    Scheme(bits=2, block=32, method="gptq"),
    Scheme(bits=8, block=32, method="gptq"),
]


def largest_error(blocks: Blocks, matrix: np.ndarray, scheme: Scheme) -> float:
    found = dequantize(blocks, scheme, columns=matrix.shape[1])
    return float(block_errors(matrix, found, scheme.block).max())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_only_weights_that_are_too_far_away_get_other_codes(scheme: Scheme) -> None:
    matrix = np.random.default_rng(0).normal(size=(8, 80)).astype(np.float32)
    matrix[3, 32:64] = 0
    spoilt = matrix.copy()
    spoilt[5, 40] *= -3 if scheme.bits > 2 else -9
    blocks = quantize(spoilt, scheme)
    assert largest_error(blocks, matrix, scheme) > METHOD.weight_errors[scheme.bits]
    found = limited(blocks, matrix, scheme)
    assert largest_error(found, matrix, scheme) <= METHOD.weight_errors[scheme.bits]
    changed = np.argwhere(
        unpack_codes(found.codes, bits=scheme.bits) != unpack_codes(blocks.codes, bits=scheme.bits)
    )
    assert changed.tolist() == [[5, 1, 8]]
    assert found.scales is blocks.scales
    assert found.zero_points is blocks.zero_points


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_matrix_without_such_weights_keeps_its_codes(scheme: Scheme) -> None:
    matrix = np.random.default_rng(0).normal(size=(8, 80)).astype(np.float32)
    blocks = quantize(matrix, scheme)
    assert limited(blocks, matrix, scheme) is blocks


def test_what_makes_up_for_earlier_layers_stays_within_the_bound() -> None:
    """One column has small inputs, and so a large part in the compensation."""
    random = np.random.default_rng(1)
    weight = torch.from_numpy(random.normal(size=(4, 32)).astype(np.float32))
    few = random.normal(size=(512, 4)) @ random.normal(size=(4, 32))  # inputs that correlate
    x = torch.from_numpy((few + 0.1 * random.normal(size=few.shape)).astype(np.float32))
    x[:, 7] = torch.from_numpy(0.01 * random.normal(size=512).astype(np.float32))
    found = correlations([x], columns=32, damping=1e-6)
    largest = weight[0].abs().max()
    weight[0, 7] = largest
    shift = torch.zeros_like(weight)
    shift[0] = found.hessian[7] * -2 * largest / STRENGTH
    wanted = compensated(weight, shift, found)
    assert torch.allclose(wanted[0, 7], -largest, rtol=1e-3)
    alone = gptq(wanted.numpy(), SCHEMES[0], found)
    assert largest_error(alone, weight.numpy(), SCHEMES[0]) > METHOD.weight_errors[4]
    blocks, _ = _compensated(weight, shift, SCHEMES[0], found)
    assert largest_error(blocks, weight.numpy(), SCHEMES[0]) <= METHOD.weight_errors[4]
