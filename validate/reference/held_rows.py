"""What the cached rows of a layer should be, by the keys and values that were computed.

Float32 rows as they are, others rounded: in int8 to steps of their channel's scale, in float16 to
those of the number itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...export.model.rope import Tables
from ...runtime.contract import past
from ..figures import relative_errors
from . import operators


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Expected keys or values of one layer, for all positions."""

    exact: np.ndarray  # (G, T, D) float32, rope applied
    read: np.ndarray  # the same as the cache gives them back: rounded where it has 8 bits
    before_rope: np.ndarray  # ``read`` before rope: (T, G * D)
    scales: np.ndarray | None  # of 8 bits, broadcasting to ``exact``; None: held in float
    is_half: bool  # held in half precision

    def errors(self, found: np.ndarray, positions: slice) -> np.ndarray:
        """How far rows (G, L, D) are from what they should be: (G, L).

        Relative to their lengths, beyond what rounding to half precision allows; in 8 bits, the
        steps beyond the half that rounding allows, where a number is not clipped.
        """
        if self.is_half:
            return _errors_beyond_half(self.exact[:, positions], found)
        if self.scales is None:
            return relative_errors(self.read[:, positions], found)
        exact = np.clip(self.exact, -128 * self.scales, 127 * self.scales)[:, positions]
        steps = np.abs(found - exact) / self.scales
        return np.asarray(np.maximum(steps.max(axis=-1) - 0.5, 0))


def hold(
    number: int,
    key: np.ndarray,
    value: np.ndarray,
    *,
    head_dim: int,
    rope: Tables,
    scales: Mapping[str, np.ndarray],
    is_half: bool,
    first: int = 0,
) -> tuple[Held, Held]:
    """Keys and values (T, G * D), before rope, as a layer's cache is to hold them.

    Args:
        number: the layer's.
        key, value: as the projections made them.
        head_dim: D.
        rope: cosines and sines of all positions.
        scales: by the name of the past whose 8 bits they belong to; none for one in float.
        is_half: whether they are held in half precision.
        first: the position of the first of them.
    """
    keys, values = (operators.split_heads(x, head_dim) for x in (key, value))
    held = []
    for kind, plain, rows in (
        ("key", key, operators.rotate(keys, rope, first=first)),
        ("value", value, values),
    ):
        scale = scales.get(past(number, kind))
        read, before_rope = rows, plain
        if is_half:
            read = operators.in_half(rows)
        elif scale is not None:
            read = operators.in_bytes(rows, scale)
        if read is not rows:
            back = read
            if kind == "key":
                back = operators.rotate(read, rope, back=True, first=first)
            before_rope = back.swapaxes(0, 1).reshape(plain.shape)
        held.append(
            Held(exact=rows, read=read, before_rope=before_rope, scales=scale, is_half=is_half)
        )
    return held[0], held[1]


def _errors_beyond_half(exact: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Distances from rows (G, L, D) beyond half a step of half precision, over their lengths."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float32)
        beyond = np.maximum(np.abs(found - exact) - steps / 2, 0)
    return relative_errors(exact, exact + beyond)
