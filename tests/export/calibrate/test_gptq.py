"""GPTQ against a plain implementation, numpy's least squares, and rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tramontane.export.calibrate.gptq import (
    DAMPING,
    correlations,
    gptq,
    refit_scales,
    round_columns,
)
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.scales_in_bytes import bytes_of, factors_of
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.runtime.errors import GraphError

INT4 = Scheme(bits=4, block=32)
SCHEMES = [
    Scheme(bits=2, block=32, method="gptq"),
    INT4,
    Scheme(bits=4, block=16),
    Scheme(bits=8, block=32),
]


def inputs_of(columns: int, *, positions: int = 400, seed: int = 0) -> torch.Tensor:
    """Correlated inputs (T, K), some channels much larger than others."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(positions, columns)) @ rng.normal(size=(columns, columns))
    sizes = np.exp(rng.normal(size=columns))
    return torch.from_numpy((mixed / np.sqrt(columns) * sizes).astype(np.float32))


def matrix_of(rows: int, columns: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def error(matrix: np.ndarray, rounded: np.ndarray, x: torch.Tensor) -> float:
    """How far the outputs are moved, squared."""
    return float(np.square(x.numpy() @ (matrix - rounded).T).sum())


def plain_gptq(matrix: np.ndarray, hessian: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Steps, by eliminating one column after the other from the inverse Hessian, in float64.

    Optimal Brain Surgeon: rounding a column moves those that are left by its error times its row
    of the inverse Hessian of what is left, over the diagonal.
    """
    nearest, columns = quantize(matrix, scheme), matrix.shape[1]
    scales, zeros = (
        np.repeat(np.float64(each), scheme.block, axis=1)[:, :columns]
        for each in (nearest.scales, nearest.zero_points)
    )
    low, high = (1, 255) if scheme.bits == 8 else (0, 2**scheme.bits - 1)
    left, inverse = np.float64(matrix), np.linalg.inv(np.float64(hessian))
    steps = np.zeros_like(left)
    for column in np.argsort(-np.diag(hessian), kind="stable"):
        codes = np.rint(left[:, column] / scales[:, column]) + zeros[:, column]
        steps[:, column] = np.clip(codes, low, high) - zeros[:, column]
        moved = (left[:, column] - steps[:, column] * scales[:, column]) / inverse[column, column]
        left = left - np.outer(moved, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return steps


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("columns", [64, 150])  # 150: more than are rounded at once, a short block
def test_codes_are_those_of_a_plain_implementation(scheme: Scheme, columns: int) -> None:
    x, matrix = inputs_of(columns), matrix_of(40, columns)
    found = correlations([x], columns=columns)
    hessian = np.float64(x.T @ x / len(x))
    hessian += DAMPING * np.diag(hessian).mean() * np.eye(columns)
    expected = plain_gptq(matrix, hessian, scheme)
    nearest = quantize(matrix, scheme)
    steps = round_columns(
        torch.from_numpy(matrix),
        scheme,
        torch.from_numpy(nearest.scales),
        torch.from_numpy(nearest.zero_points).to(torch.int16),
        found,
    ).numpy()
    # In float32 a weight may fall on the other side of the middle between two codes, and move all
    # that follow it in its row.
    equal_rows = (steps == expected).all(axis=1)
    assert equal_rows.mean() > 0.8
    assert np.abs(steps - expected).max() <= 8


def test_inverse_of_the_factor_gives_the_inverse_hessian() -> None:
    x = inputs_of(50)
    found = correlations([x[:150], x[150:]], columns=50)
    inverse = found.inverse.double()
    hessian = found.hessian[found.order][:, found.order].double()
    torch.testing.assert_close(inverse, inverse.tril())
    torch.testing.assert_close(
        inverse.T @ inverse @ hessian, torch.eye(50, dtype=torch.float64), atol=1e-4, rtol=0
    )
    sizes = found.hessian.diagonal()[found.order]
    assert bool((sizes[:-1] <= sizes[1:]).all())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("columns", [96, 100])
def test_outputs_move_less_than_by_rounding_to_nearest(scheme: Scheme, columns: int) -> None:
    x, matrix = inputs_of(columns), matrix_of(30, columns)
    blocks = gptq(matrix, scheme, correlations([x], columns=columns))
    ours = error(matrix, dequantize(blocks, scheme, columns=columns), x)
    nearest = quantize(matrix, scheme)
    assert [part.shape for part in blocks] == [part.shape for part in nearest]
    assert [part.dtype for part in blocks] == [part.dtype for part in nearest]
    assert ours < 0.6 * error(matrix, dequantize(nearest, scheme, columns=columns), x)


@pytest.mark.parametrize("columns", [96, 100])
def test_scales_fit_into_bytes_where_they_are_stored_so(columns: int) -> None:
    x, matrix = inputs_of(columns), matrix_of(30, columns)
    found, scheme = correlations([x], columns=columns), Scheme(bits=4, block=32, scales="uint8")
    blocks = gptq(matrix, scheme, found)
    exact = bytes_of(blocks.scales).astype(np.float32) * factors_of(blocks.scales)
    np.testing.assert_array_equal(exact.astype(np.float32), blocks.scales)
    ours, floats = (
        error(matrix, dequantize(each, scheme, columns=columns), x)
        for each in (blocks, gptq(matrix, INT4, found))
    )
    assert ours < 1.05 * floats


def test_rest_of_a_short_block_is_zero() -> None:
    x, matrix = inputs_of(40), matrix_of(5, 40)
    blocks = gptq(matrix, INT4, correlations([x], columns=40))
    assert not dequantize(blocks, INT4, columns=64)[:, 40:].any()


def test_scales_are_those_of_least_squares() -> None:
    x, matrix = inputs_of(96), matrix_of(7, 96)
    found = correlations([x], columns=96)
    nearest = quantize(matrix, INT4)
    scales, zeros = torch.from_numpy(nearest.scales), torch.from_numpy(nearest.zero_points)
    zeros = zeros.to(torch.int16)
    steps = round_columns(torch.from_numpy(matrix), INT4, scales, zeros, found)
    fitted = refit_scales(torch.from_numpy(matrix), INT4, scales, steps, found.hessian).numpy()
    root = np.linalg.cholesky(found.hessian.double().numpy()).T
    for row in range(len(matrix)):
        basis = np.zeros((96, 3))
        for column in range(96):
            basis[column, column // 32] = steps[row, column]
        expected = np.linalg.lstsq(root @ basis, root @ matrix[row], rcond=None)[0]
        np.testing.assert_allclose(fitted[row], expected, rtol=1e-4)
    before, after = (
        error(matrix, steps.numpy() * np.repeat(each, 32, axis=1), x)
        for each in (scales.numpy(), fitted)
    )
    assert after < before


def test_inputs_and_weights_of_zero_are_rounded_to_nearest_and_stay_zero() -> None:
    x, matrix = inputs_of(64), matrix_of(6, 64)
    x[:, 3] = 0
    matrix[2] = 0
    matrix[4, 32:] = 0
    found = correlations([x], columns=64)
    rounded = dequantize(gptq(matrix, INT4, found), INT4, columns=64)
    assert np.isfinite(rounded).all()
    assert not rounded[2].any()
    assert not rounded[4, 32:].any()
    silent = correlations([torch.zeros(9, 64)], columns=64)
    steps = gptq(matrix, INT4, silent)
    np.testing.assert_array_equal(steps.codes, quantize(matrix, INT4).codes)


def test_damping_grows_until_the_factorization_holds() -> None:
    x = inputs_of(64, positions=3)  # fewer positions than columns: singular without damping
    assert correlations([x], columns=64).damping == DAMPING
    found = correlations([x], columns=64, damping=1e-12)
    assert 1e-12 < found.damping <= DAMPING
    mean = float((x.T @ x / 3).diagonal().mean())
    added = (found.hessian - x.T @ x / 3).diagonal().mean()  # a mean: each has little precision
    np.testing.assert_allclose(added, found.damping * mean, rtol=0.1)


def test_activations_that_are_not_finite_are_refused() -> None:
    x = inputs_of(8)
    x[3, 2] = float("inf")
    with pytest.raises(GraphError, match="activations are not finite.*--calibration-text"):
        correlations([x], columns=8)
