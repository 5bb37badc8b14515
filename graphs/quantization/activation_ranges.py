"""Calibration: largest magnitudes of activations, and the matrices that were rounded for them.

(numpy only)
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass

import numpy as np

from ...runtime.errors import GraphError
from .rounded_matrices import RoundedMatrices


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMaxima:
    """The largest magnitude of each channel of what one layer computes; all float32."""

    attention_input: np.ndarray  # (M,), normed: what queries, keys and values are made from
    mlp_input: np.ndarray  # (M,), normed: what gate and up are made from
    keys: np.ndarray  # (G, D), rope applied
    values: np.ndarray  # (G, D)


_KINDS = tuple(field.name for field in dataclasses.fields(LayerMaxima))


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What a whole model computed of some tokens."""

    layers: tuple[LayerMaxima, ...]
    rounded: RoundedMatrices | None = None  # the layers' matrices, where the method rounds them

    def with_rounded(self, rounded: RoundedMatrices | None) -> Calibration:
        """The same maxima, beside rounded matrices."""
        return dataclasses.replace(self, rounded=rounded)

    def to_bytes(self) -> bytes:
        """The maxima as numpy's npz."""
        arrays = {
            f"{number}.{kind}": getattr(layer, kind)
            for number, layer in enumerate(self.layers)
            for kind in _KINDS
        }
        written = io.BytesIO()
        np.savez(written, allow_pickle=False, **arrays)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Calibration:
        """The maxima that ``to_bytes`` wrote.

        Raises:
            GraphError: it is something else.
        """
        try:
            with np.load(io.BytesIO(content)) as arrays:
                layers = len(arrays) // len(_KINDS)
                return cls(
                    layers=tuple(
                        LayerMaxima(**{kind: arrays[f"{number}.{kind}"] for kind in _KINDS})
                        for number in range(layers)
                    ),
                )
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise GraphError(
                f"calibration: cannot be read ({error}), expected what Calibration.to_bytes "
                "writes; calibrate again"
            ) from error
