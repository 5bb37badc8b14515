"""Findings about weights, their rounding, operators and cached rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..figures import row_parts

_SUFFIXES = {"weights": " weights", "rounding": " rounding"}  # of places, by kind
IN_HALF = "in half precision"  # among the inputs of rows that are held so
SCALES = "scales"  # suffix of the names of findings about a cache's scales


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFinding:
    """One weight or operator, and how far it is from the reference's."""

    layer: int | None  # None: before the first, or after the last
    name: str  # as parameters are named, e.g. attention.query; or attention, rope, ...
    kind: str  # weights, rounding, operators or rows
    error: float
    bound: float
    position: int | None  # of the token where it is worst; None for weights
    detail: str = ""  # more of where it is worst

    @property
    def is_broken(self) -> bool:
        """Whether it is out of bounds; a NaN is."""
        return not self.error <= self.bound

    @property
    def place(self) -> str:
        """Its place in the model."""
        where = "" if self.layer is None else f"layer {self.layer}, "
        return f"{where}{self.name}{_SUFFIXES.get(self.kind, '')}"

    def __str__(self) -> str:
        at = "" if self.position is None else f", worst at position {self.position}"
        return f"{self.place}{at}{', ' if self.detail else ''}{self.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedTensor:
    """A finding with the values behind it, from which its cause can be found."""

    finding: LayerFinding
    inputs: dict[str, np.ndarray]
    found: np.ndarray
    expected: np.ndarray


@dataclass(kw_only=True)
class LayerChecks:
    """All findings in order, and how the hidden state drifts from layer to layer."""

    tokens: np.ndarray  # (T,) int64, that were fed
    cuts: list[int]  # sizes of the pieces in which they were fed
    layers: list[int]  # whose operators were compared
    findings: list[LayerFinding] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)  # mean relative error after each layer
    first_broken: ComparedTensor | None = None  # the first finding beyond its bound

    def add(self, *compared: ComparedTensor) -> None:
        """Note findings; of the values, those of the first that is broken are kept."""
        for one in compared:
            self.findings.append(one.finding)
            if one.finding.is_broken and self.first_broken is None:
                self.first_broken = one


def block_errors(
    expected: np.ndarray, found: np.ndarray, block: int | None, *, row_share: float = 0.0
) -> np.ndarray:
    """Largest error of each block over its largest weight: (N, blocks), or (1, 1) without blocks.

    A scale is shared by a block; rounded to the nearest of its steps, no weight is further off
    than half of one. Where the scale itself is rounded to steps of its row, ``row_share`` of the
    row's largest weight is added to the block's.
    """
    width = expected.shape[1] if block is None else block
    maxima = [_block_maxima(expected[part], found[part], width) for part in row_parts(expected)]
    difference, size = (np.concatenate(each) for each in zip(*maxima, strict=True))
    if block is None:
        largest = np.array([[size.max()]])
        return np.asarray(difference.max() / np.maximum(largest, np.finfo(np.float32).tiny))
    size = size + row_share * size.max(axis=1, keepdims=True)
    # A block of zeros is held exactly; compare it with its row, not with itself.
    size = np.where(size == 0, np.maximum(size.max(axis=1, keepdims=True), 1e-30), size)
    return np.asarray(difference / size)


def _block_maxima(
    expected: np.ndarray, found: np.ndarray, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Largest difference and largest weight of each block: (N, blocks) each."""
    filled = [(0, 0), (0, -expected.shape[1] % block)]
    difference, size = (
        np.pad(np.abs(x), filled).reshape(len(x), -1, block).max(axis=-1)
        for x in (found - expected, expected)
    )
    return difference, size
