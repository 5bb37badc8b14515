"""Changes a matrix so that it makes up for the rounding of the matrices before it.

With x what a matrix W gets from the rounded matrices before it, and e what it gets in the float
model, the matrix that brings W' x nearest to W e is

    W' = W + mean(W (e - x) xᵀ) H⁻¹,  H = mean(x xᵀ)

over all positions: the least-squares solution. A part of that step is taken, since what a text of
some thousand tokens shows is not all true of other text.
Source: GPTAQ, arXiv:2504.02692, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .gptq import Correlations

# The part of the step. On other text a whole step was worse than half of one for one of two
# trained models, and no better for the other.
STRENGTH = 0.5
# Parts that are tried in turn, until the mean square by which the matrix's own outputs move is
# less than MOST_MOVED of what rounding it to nearest makes of it. The parity check allows all of
# it, on other text: at 0.6, a matrix of a small model (stories260K) still moved more there.
STRENGTHS = (STRENGTH, STRENGTH / 2, 0.0)
MOST_MOVED = 0.45


def output_shifts(
    weights: Mapping[str, Tensor], inputs: Iterable[Tensor], exact: Iterable[Tensor]
) -> dict[str, Tensor]:
    """How the outputs that rounding took away correlate with the inputs.

    Args:
        weights: (N, K) float32 each, which all read the same inputs.
        inputs: (T, K) float32 each: of sequences, from rounded matrices.
        exact: the same, from the float model.

    Returns:
        (N, K) float32 each: mean of W (e - x) xᵀ over positions.
    """
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    positions = 0
    for x, e in zip(inputs, exact, strict=True):
        missing = e - x
        for name, weight in weights.items():
            found[name].addmm_((missing @ weight.T).T, x)
        positions += len(x)
    return {name: shift.div_(max(positions, 1)) for name, shift in found.items()}


def compensated(
    weight: Tensor, shift: Tensor, found: Correlations, *, strength: float = STRENGTH
) -> Tensor:
    """The matrix to round in place of one.

    Args:
        weight: (N, K) float32.
        shift: as of ``output_shifts``.
        found: of the same inputs.
        strength: the part of the step to the least-squares solution.

    Returns:
        (N, K) float32.
    """
    step = shift[:, found.order] @ found.inverse.T @ found.inverse
    return weight + strength * step[:, torch.argsort(found.order)]
