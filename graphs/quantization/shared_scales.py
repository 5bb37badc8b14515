"""Which numbers of one multiplication share a scale, on both of its sides. (stdlib only)"""

from __future__ import annotations

from typing import NamedTuple

from .scheme import Scheme


class SharedScales(NamedTuple):
    """Of one matrix, as a target's kernel multiplies by it."""

    bits: int  # of a weight
    weights: int  # columns of a row that share a scale
    activations: int | None  # columns of a position that share one; None: they stay in float


def in_blocks(scheme: Scheme, *, rounds_activations: bool = True) -> SharedScales:
    """Activations have the blocks of the weights, or stay in float."""
    return SharedScales(scheme.bits, scheme.block, scheme.block if rounds_activations else None)


def in_parts(columns: int, *, parts: int = 1, rounds_activations: bool = True) -> SharedScales:
    """Whole rows of 8-bit weights, or equal parts of them, on both sides."""
    width = columns // parts
    return SharedScales(8, width, width if rounds_activations else None)
