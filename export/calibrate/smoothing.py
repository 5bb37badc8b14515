"""Chooses the powers of two by which channels are divided, so that rounding costs least.

A channel k of what a matrix W reads is divided by s[k] where it is made, and column k of W is
multiplied by s[k]. In float nothing changes. Rounding depends on it: numbers that share a scale
are rounded to steps of their largest, so a channel that is large leaves the others few steps. The
mean square by which both roundings move the outputs is estimated for some choices of s from
the inputs that calibration observes, and the least is taken.
Source: SmoothQuant, arXiv:2211.10438, section 4, for the form of s; with powers of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...graphs.quantization.codes import LARGEST, steps_of
from ...graphs.quantization.shared_scales import SharedScales
from ..model.model import Layer
from .layer_walk import Inputs

# How much of a channel's size goes to its weights: the choices. 0 is no smoothing.
STRENGTHS = (0.25, 0.5, 0.65, 0.8, 1.0)
# Of the error without smoothing: what is saved must be more, since other text differs.
_LEAST_SAVED = 0.05
_ROWS_AT_ONCE = 512  # of a matrix; bounds the memory
# By the first matrix of a stage of ``layer_walk.STAGES``: the parameter whose rows are divided.
_DIVIDED = {
    "attention.query": "attention_norm.weight",
    "mlp.gate": "mlp_norm.weight",
    "mlp.down": "mlp.up.weight",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A matrix that reads the channels, and which of its numbers share a scale."""

    weight: np.ndarray  # (N, K) float32
    scales: SharedScales


class ChooseDivisors:
    """A visitor of one layer."""

    def __init__(self, layer: Layer, number: int, scales: Mapping[str, SharedScales]) -> None:
        """Prepare to choose.

        Args:
            layer: that is visited.
            number: the layer's.
            scales: by parameter, of the matrices that may be smoothed.
        """
        self._layer, self._number, self._scales = layer, number, scales
        self.found: dict[str, np.ndarray] = {}  # by the parameter whose rows are divided

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        """Choose for one stage, where all that reads it may be smoothed."""
        start = f"layers.{self._number}."
        scales = [self._scales.get(f"{start}{name}.weight") for name in names]
        if names[0] not in _DIVIDED or None in scales:
            return
        readers = [
            Reader(weight=self._layer.get_parameter(f"{name}.weight").numpy(), scales=one)
            for name, one in zip(names, scales, strict=True)
            if one is not None
        ]
        divisors = choose_divisors(inputs, readers)
        if (divisors != 1).any():
            self.found[f"{start}{_DIVIDED[names[0]]}"] = divisors

    def see_cache(self, keys: Tensor, values: Tensor) -> None:
        """Keys and values are rounded by scales of their own."""


def choose_divisors(inputs: Inputs, readers: Sequence[Reader]) -> np.ndarray:
    """The divisor of each channel: (K,) float32, powers of two; ones where smoothing saves little.

    Args:
        inputs: yields what the matrices read, (T, K) float32 of each sequence.
        readers: the matrices.
    """
    maxima, squares = _sizes(inputs())
    largest = np.max([np.abs(one.weight).max(axis=0) for one in readers], axis=0)
    choices = [np.ones_like(maxima)]
    choices += [factors(maxima, largest, strength) for strength in STRENGTHS]
    errors = _errors_of_weights(readers, squares, choices)
    errors += _errors_of_activations(inputs(), readers, choices)
    best = int(errors.argmin())
    return choices[best if errors[best] < (1 - _LEAST_SAVED) * errors[0] else 0]


def factors(maxima: np.ndarray, largest: np.ndarray, strength: float) -> np.ndarray:
    """The power of two by which each channel is divided; that of most channels is about one.

    Args:
        maxima: (K,) float32, the largest magnitude of each channel.
        largest: (K,) float32, that of the weights that read it.
        strength: 0 evens out weights alone, 1 activations alone.
    """
    is_used = (maxima > 0) & (largest > 0)
    exponents = np.zeros(maxima.shape)
    exponents[is_used] = strength * np.log2(maxima[is_used], dtype=np.float64) - (
        1 - strength
    ) * np.log2(largest[is_used], dtype=np.float64)
    if is_used.any():
        exponents[is_used] -= np.median(exponents[is_used])
    return np.exp2(np.rint(exponents)).astype(np.float32)


def _sizes(inputs: Iterable[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Of each channel: the largest magnitude, and the mean square; (K,) float32 each."""
    maxima, squares, positions = np.zeros(1, np.float32), np.zeros(1), 0
    for x in inputs:
        rows = x.numpy()
        maxima = np.maximum(maxima, np.abs(rows).max(axis=0))
        squares = squares + np.square(rows, dtype=np.float64).sum(axis=0)
        positions += len(rows)
    return maxima, (squares / positions).astype(np.float32)


def _errors_of_weights(
    readers: Sequence[Reader], squares: np.ndarray, choices: Sequence[np.ndarray]
) -> np.ndarray:
    """What rounding the weights costs a position's outputs, by choice; over a twelfth."""
    found = np.zeros(len(choices))
    for one in readers:
        step = 1 / LARGEST if one.scales.bits == 8 else 2 / steps_of(one.scales.bits)
        width = one.scales.weights
        for number, divisors in enumerate(choices):
            inputs = _blocks(squares / np.square(divisors), width).sum(axis=-1)
            for start in range(0, len(one.weight), _ROWS_AT_ONCE):
                rows = one.weight[start : start + _ROWS_AT_ONCE] * divisors
                largest = np.abs(_blocks(rows, width)).max(axis=-1) * np.float32(step)
                found[number] += (np.square(largest, dtype=np.float64) @ inputs).sum()
    return found


def _errors_of_activations(
    inputs: Iterable[Tensor], readers: Sequence[Reader], choices: Sequence[np.ndarray]
) -> np.ndarray:
    """What rounding the activations costs a position's outputs, by choice; over a twelfth."""
    gains: dict[int, np.ndarray] = {}  # by width: the squared length of each column of the readers
    for one in readers:
        if (width := one.scales.activations) is not None:
            columns = np.square(one.weight, dtype=np.float64).sum(axis=0)
            gains[width] = gains.get(width, 0) + columns
    weighted = {
        width: [_blocks(gain * np.square(one), width).sum(axis=-1) for one in choices]
        for width, gain in gains.items()
    }
    found, positions = np.zeros(len(choices)), 0
    for x in inputs if gains else ():
        rows = np.abs(x.numpy())
        positions += len(rows)
        for width, gain in weighted.items():
            for number, divisors in enumerate(choices):
                steps = _blocks(rows / divisors, width).max(axis=-1) / np.float32(LARGEST)
                found[number] += (np.square(steps, dtype=np.float64) @ gain[number]).sum()
    return found / max(positions, 1)


def _blocks(rows: np.ndarray, width: int) -> np.ndarray:
    """(..., K) cut along K, the last block filled with zeros: (..., blocks, width)."""
    missing = -rows.shape[-1] % width
    if missing:
        rows = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)])
    return rows.reshape(*rows.shape[:-1], -1, width)
