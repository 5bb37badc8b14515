"""GPTQ: rounds one matrix so that its outputs, for inputs like those observed, change least.

Source: GPTQ, arXiv:2210.17323, algorithm 1. Columns are rounded in the order of their inputs'
size, and scales are chosen before any is, by the columns' places in the matrix: so the graph needs
no index. Then the scales are fitted once more, by least squares.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...graphs.quantization.codes import LARGEST, MIDDLE, Blocks, pack_codes, steps_of
from ...graphs.quantization.methods.round_to_nearest import quantize
from ...graphs.quantization.scales_in_bytes import rounded
from ...graphs.quantization.scheme import Scheme
from ...runtime.errors import GraphError

DAMPING = 0.01  # of the mean of the Hessian's diagonal, added to all of it
_MOST_DAMPING = 100.0
_COLUMNS_AT_ONCE = 64  # rounded before the columns behind them are corrected
# Rows whose scales are fitted together, at most, and bytes of their systems of equations.
_ROWS_AT_ONCE, _SYSTEM_BYTES = 256, 1 << 27
# A scale that is fitted stays this near to the one before, or that one is kept: where few codes of
# a block are not zero, the equations hardly determine it.
_NEAREST, _FARTHEST = 0.5, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlations:
    """How the inputs of a matrix correlate, ready for rounding every matrix that reads them.

    Columns are rounded from the last to the first of ``order``, those of the largest inputs first.
    """

    hessian: Tensor  # (K, K) float32, damped: mean of x xᵀ over positions
    order: Tensor  # (K,) int64: columns, those of the smallest inputs first
    inverse: Tensor  # (K, K) float32, in that order: the inverse of the Hessian's Cholesky factor
    damping: float  # of the mean of the diagonal, that it took to factorize

    def mean_square(self, weights: Tensor) -> float:
        """The mean squared length of the outputs of a matrix (N, K) for these inputs."""
        return float(torch.sum((weights @ self.hessian) * weights))


def correlations(
    inputs: Iterable[Tensor], *, columns: int, damping: float = DAMPING
) -> Correlations:
    """Add up the inputs of a matrix and factorize; three matrices of (K, K) are in memory at most.

    The damping grows tenfold until the factorization holds.

    Args:
        inputs: (T, K) float32 each.
        columns: K.
        damping: to begin with, of the mean of the Hessian's diagonal.

    Raises:
        GraphError: inputs that are not finite.
    """
    hessian, positions = torch.zeros(columns, columns), 0
    for x in inputs:
        hessian.addmm_(x.T, x)
        positions += len(x)
    hessian /= max(positions, 1)
    mean = float(hessian.diagonal().mean())
    if not np.isfinite(mean):
        raise GraphError(
            "calibration: activations are not finite, expected numbers; the model overflows on "
            "this text, name another with --calibration-text"
        )
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True).flip(0)
    added = 0.0
    while damping <= _MOST_DAMPING:
        hessian.diagonal().add_(damping * (mean or 1.0) - added)
        added = damping * (mean or 1.0)
        inverse = _inverse_of_factor(hessian, order)
        if inverse is not None:
            return Correlations(hessian=hessian, order=order, inverse=inverse, damping=damping)
        damping *= 10
    raise GraphError(
        f"calibration: a Hessian of {columns} columns cannot be factorized with damping of "
        f"{_MOST_DAMPING:.0%}; this is a bug, report it"
    )


def _inverse_of_factor(hessian: Tensor, order: Tensor) -> Tensor | None:
    """The inverse of the lower Cholesky factor of a matrix in an order; None: it has none."""
    factor = torch.empty_like(hessian)
    for row, column in enumerate(order.tolist()):  # indexing both at once would take a third one
        torch.index_select(hessian[column], 0, order, out=factor[row])
    # In place, which needs the matrix column by column: transposed, it is the same.
    failed = torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(factor.mT, out=(factor.mT, failed))
    if int(failed):
        return None
    inverse = torch.eye(len(hessian))
    torch.linalg.solve_triangular(factor.mT, inverse.mT, upper=False, out=inverse.mT)
    return inverse.mT if bool(torch.isfinite(inverse.diagonal()).all()) else None


def gptq(matrix: np.ndarray, scheme: Scheme, found: Correlations) -> Blocks:
    """Round a matrix.

    Args:
        matrix: (N, K) float32.
        scheme: bits and block.
        found: of the inputs of this matrix.
    """
    weights, columns = torch.from_numpy(matrix), matrix.shape[1]
    nearest = quantize(matrix, scheme)
    scales = torch.from_numpy(nearest.scales)
    zero_points = torch.from_numpy(nearest.zero_points).to(torch.int16)
    steps = round_columns(weights, scheme, scales, zero_points, found)
    scales = refit_scales(weights, scheme, scales, steps, found.hessian)
    if scheme.has_byte_scales:
        scales = torch.from_numpy(rounded(scales.numpy()))
    blocks, missing = nearest.scales.shape[1], -columns % scheme.block
    filled = functional.pad(steps, (0, missing))  # with steps of zero
    codes = filled.reshape(len(matrix), blocks, scheme.block) + zero_points[:, :, None]
    return Blocks(
        codes=pack_codes(codes.to(torch.uint8).numpy(), bits=scheme.bits),
        scales=scales.numpy(),
        zero_points=nearest.zero_points,
    )


def round_columns(
    weights: Tensor, scheme: Scheme, scales: Tensor, zero_points: Tensor, found: Correlations
) -> Tensor:
    """Round column by column, correcting the columns that are left.

    Args:
        weights: (N, K) float32.
        scheme: bits and block.
        scales: (N, blocks) float32.
        zero_points: (N, blocks) int16.
        found: of the inputs of this matrix.

    Returns:
        (N, K) int16: code - zero point of each weight.
    """
    low, high = (1, MIDDLE + LARGEST) if scheme.bits == 8 else (0, steps_of(scheme.bits))
    left = weights[:, found.order]  # corrected so far
    rounded = torch.empty(left.shape, dtype=torch.int16)
    for end in range(weights.shape[1], 0, -_COLUMNS_AT_ONCE):
        start = max(end - _COLUMNS_AT_ONCE, 0)
        blocks = found.order[start:end] // scheme.block
        scale, zero = (each[:, blocks].T.contiguous() for each in (scales, zero_points))
        divisor = torch.where(scale == 0, 1, scale)
        here, rows = left[:, start:end].T.contiguous(), found.inverse[start:end]
        errors, own = torch.empty_like(here), rows[:, start:end]
        with _one_thread():
            for i in reversed(range(end - start)):
                code = torch.round(here[i] / divisor[i]) + zero[i]
                steps = code.clamp_(low, high) - zero[i]
                rounded[:, start + i] = steps
                errors[i] = (here[i] - steps * scale[i]) / own[i, i]
                here[:i].addr_(own[i, :i], errors[i], alpha=-1)
        left[:, :start].addmm_(errors.T, rows[:, :start], alpha=-1)
    return rounded[:, torch.argsort(found.order)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: many short steps, after each of which threads would wait.

    On a machine with other work to do, they would wait for a turn each time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def refit_scales(
    weights: Tensor, scheme: Scheme, scales: Tensor, steps: Tensor, hessian: Tensor
) -> Tensor:
    """The scales with which these codes change a matrix's outputs least, row by row.

    With c the steps of one block, zero elsewhere, the scales s of a row w solve the normal
    equations: for each block g, the sum over blocks h of (c_g H c_h) s_h is c_g H w.

    Args:
        weights: (N, K) float32.
        scheme: bits and block.
        scales: (N, blocks) float32, that the codes were chosen with.
        steps: (N, K) int16, code - zero point of each weight.
        hessian: (K, K) float32.

    Returns:
        (N, blocks) float32.
    """
    blocks = scales.shape[1]
    fitted, missing = scales.clone(), -weights.shape[1] % scheme.block

    def by_block(products: Tensor) -> Tensor:
        """Sums over each block of what may begin with a later one than the first."""
        filled = functional.pad(products, (0, missing))
        return filled.reshape(len(products), -1, scheme.block).sum(dim=2)

    at_once = min(_ROWS_AT_ONCE, max(1, _SYSTEM_BYTES // (8 * blocks**2)))
    for row in range(0, len(weights), at_once):
        rows = slice(row, row + at_once)
        codes, before = steps[rows].to(torch.float32), scales[rows]
        system = torch.empty(len(codes), blocks, blocks, dtype=torch.float64)
        for block in range(blocks):
            start, end = block * scheme.block, (block + 1) * scheme.block
            found = codes[:, start:end] @ hessian[start:end, start:]
            system[:, block, block:] = by_block(found.mul_(codes[:, start:]))
            system[:, block:, block] = system[:, block, block:]  # it is symmetric
        wanted = by_block((weights[rows] @ hessian) * codes).to(torch.float64)
        diagonal = system.diagonal(dim1=1, dim2=2)
        diagonal += torch.where(diagonal <= 0, 1.0, 1e-9 * diagonal)  # blocks of zeros alone
        solved = torch.linalg.solve(system, wanted).to(torch.float32)
        is_near = (solved >= _NEAREST * before) & (solved <= _FARTHEST * before)
        fitted[rows] = torch.where(is_near, solved, before)
    return fitted
