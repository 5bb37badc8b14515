"""Causes of a matrix whose rounding moves its outputs too far."""

from __future__ import annotations

import numpy as np

from ..layer_checks.findings import ComparedTensor
from .rank_causes import Found


def cause_of_rounding(compared: ComparedTensor) -> Found:
    """The cause and its evidence: weights are near the checkpoint's, and fit other inputs.

    Args:
        compared: the matrix found and the one expected, (N, K) each, and ``x``, its inputs.
    """
    moved = np.linalg.norm(compared.found - compared.expected)
    share = float(moved / np.linalg.norm(compared.expected))
    return (
        "the matrix was rounded for other inputs than it gets: those of another layer, or a text "
        "that is too short or unlike what the model reads (--calibration-text)",
        f"its weights are {share:.1%} away from the checkpoint's, in outputs "
        f"{compared.finding.error:.2f} times as far as rounded to nearest",
    )
