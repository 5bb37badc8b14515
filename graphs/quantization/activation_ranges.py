"""Calibration: largest keys and values, divisors of channels, and matrices that were rounded.

(numpy only)
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...runtime.errors import GraphError
from ...runtime.untrusted.arrays import parse_arrays
from .rounded_matrices import RoundedMatrices


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMaxima:
    """The largest magnitude of each channel of what one layer holds in the cache; float32."""

    keys: np.ndarray  # (G, D), rope applied
    values: np.ndarray  # (G, D)


_KINDS = tuple(one.name for one in dataclasses.fields(LayerMaxima))
_WHAT, _REMEDY = "calibration", "calibrate again"
_DIVISORS = "divisors/"  # how the names of divisors begin in a file


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What a whole model computed of some tokens."""

    layers: tuple[LayerMaxima, ...]
    rounded: RoundedMatrices | None = None  # the layers' matrices, where the method rounds them
    # Smoothing, by the parameter whose rows are divided: a norm's, or that of ``mlp.up``. Powers
    # of two, (rows,) float32; a parameter that is not named stays as it is.
    divisors: Mapping[str, np.ndarray] = field(default_factory=dict)

    def with_rounded(self, rounded: RoundedMatrices | None) -> Calibration:
        """The same, beside rounded matrices."""
        return dataclasses.replace(self, rounded=rounded)

    def to_bytes(self) -> bytes:
        """The maxima and the divisors as numpy's npz."""
        arrays = {
            f"{number}.{kind}": getattr(layer, kind)
            for number, layer in enumerate(self.layers)
            for kind in _KINDS
        }
        arrays |= {f"{_DIVISORS}{name}": array for name, array in self.divisors.items()}
        written = io.BytesIO()
        np.savez(written, allow_pickle=False, **arrays)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Calibration:
        """What ``to_bytes`` wrote.

        Raises:
            GraphError: it is something else.
        """
        arrays = parse_arrays(content, what=_WHAT, error=GraphError, remedy=_REMEDY)
        divisors = [name for name in arrays if name.startswith(_DIVISORS)]
        layers = range((len(arrays) - len(divisors)) // len(_KINDS))
        names = [[f"{number}.{kind}" for kind in _KINDS] for number in layers]
        if missing := [name for each in names for name in each if name not in arrays]:
            raise GraphError(f"{_WHAT}: {missing[0]} is missing, expected it; {_REMEDY}")
        return cls(
            layers=tuple(
                LayerMaxima(**dict(zip(_KINDS, (arrays[name] for name in each), strict=True)))
                for each in names
            ),
            divisors={name.removeprefix(_DIVISORS): arrays[name] for name in divisors},
        )
