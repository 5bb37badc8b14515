"""Likely causes of wrong scales of an int8 cache."""

from __future__ import annotations

import numpy as np

from ..layer_checks.findings import ComparedTensor
from .rank_causes import Found

_ROOM = 1.5  # times the scale that fits a channel: more is too coarse
_LARGEST = 127


def cause_of_scales(compared: ComparedTensor) -> Found:
    """What all of the scales have in common, and how they fit the rows.

    Args:
        compared: scales found and those that fit best, (G, 1, D), and the rows (G, T, D).
    """
    ratios = compared.found / compared.expected
    rows = compared.inputs["rows"]
    clipped = float((np.abs(rows) > (_LARGEST + 0.5) * compared.found).mean())
    evidence = f"{clipped:.2%} of the values are clipped"
    is_large = float(np.median(ratios)) > _ROOM
    wrong = ratios > _ROOM if is_large else ratios < 1
    how = f"too {'large' if is_large else 'small'}: {_times(ratios[wrong])}"
    return f"{int(wrong.sum())} of {wrong.size} scales are {how}", evidence


def _times(ratios: np.ndarray) -> str:
    middle = float(np.median(ratios)) if ratios.size else 1.0
    return f"{middle:.2g} times the scale that fits the channel's largest value"
