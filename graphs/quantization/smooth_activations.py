"""Smooth activations: let channels that are large by nature be smaller, and their weights larger.

Before:  y_i = MatMul(RMSNormalization(x, norm), Transpose(weight_i))
After:   the same nodes, with norm / s in place of norm and weight_i * s in place of weight_i
Legal because the norm's output has no other readers, and each channel k of it is divided by s[k]
where it is made and multiplied by s[k] where it is read; s[k] is a power of two, so that both are
exact in float32. What is rounded with one scale for a position is rounded better: a channel that
is large by nature no longer leaves the others a few steps.
Source: SmoothQuant, arXiv:2211.10438, section 4; with powers of two.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...runtime.errors import GraphError
from .. import weights
from ..linear import Linear, as_linear
from .activation_ranges import Calibration

# How much of a channel's size goes to its weights. Simulated on the trained models, mean KL over
# 1024 tokens of text (256 of stories15M), without smoothing and with 0.5, 0.8 and 1: stories15M
# 3.3e-2, 3.1e-2, 2.6e-2, 2.6e-2; stdlib-5m 9.8e-4, 9.8e-4, 9.4e-4, 1.0e-3.
STRENGTH = 0.8
_NORM = re.compile(r"layers\.(\d+)\.(attention|mlp)_norm\.weight")
_SMOOTHED = "smoothed"


class SmoothActivations(ir.passes.InPlacePass):
    """Every norm of a layer whose output linear layers alone read."""

    def __init__(self, calibration: Calibration, *, strength: float = STRENGTH) -> None:
        super().__init__()
        self._calibration, self._strength = calibration, strength

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any norm was smoothed.

        Raises:
            GraphError: the calibration is of another model.
        """
        smoothed = 0
        for node in model.graph:
            readers = _readers(node)
            norm = node.inputs[1] if readers else None
            named = _NORM.fullmatch(str(norm.name)) if norm is not None else None
            if norm is None or named is None or norm.meta.get(_SMOOTHED, False):
                continue
            maxima = self._maxima(int(named[1]), f"{named[2]}_input", norm)
            _smooth(norm, [reader.weight for reader in readers], maxima, self._strength)
            smoothed += 1
        return ir.passes.PassResult(model, modified=smoothed > 0)

    def _maxima(self, number: int, kind: str, norm: ir.Value) -> np.ndarray:
        layers = self._calibration.layers
        maxima = getattr(layers[number], kind) if number < len(layers) else np.zeros(0)
        if maxima.shape != weights.size_of(norm):
            raise GraphError(
                f"{norm.name}: the calibration has {len(layers)} layers, and {len(maxima)} "
                f"channels here, expected {weights.size_of(norm)[0]}; calibrate this checkpoint"
            )
        return np.asarray(maxima)


def factors(maxima: np.ndarray, largest: np.ndarray, strength: float) -> np.ndarray:
    """The power of two by which each channel is divided; that of most channels is one.

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


def _readers(node: ir.Node) -> list[Linear]:
    """The linear layers that read a norm; none where anything else does."""
    if node.op_type != "RMSNormalization" or node.outputs[0].is_graph_output():
        return []
    uses = [reader for reader, _ in node.outputs[0].uses()]
    found = [layer for layer in map(as_linear, uses) if layer is not None]
    are_own = all(_is_read_once(layer.weight) for layer in found)
    return found if len(found) == len(uses) and are_own else []


def _is_read_once(weight: ir.Value) -> bool:
    return len(weight.uses()) == 1


def _smooth(
    norm: ir.Value, matrices: Sequence[ir.Value], maxima: np.ndarray, strength: float
) -> None:
    """Change the weights of a norm and its readers; nothing is read until they are written."""
    published = [_published(matrix) for matrix in matrices]

    @functools.cache
    def divisors() -> np.ndarray:
        largest = [np.abs(matrix.numpy()).max(axis=0) for matrix in published]
        return factors(maxima, np.max(largest, axis=0), strength)

    vector = _published(norm)
    _replace(norm, lambda: vector.numpy() / divisors())
    for matrix, tensor in zip(matrices, published, strict=True):
        _replace(matrix, functools.partial(_multiplied, tensor, divisors))
    norm.meta[_SMOOTHED] = True


def _multiplied(tensor: ir.TensorProtocol, divisors: weights.Compute) -> np.ndarray:
    return np.asarray(tensor.numpy() * divisors())


def _published(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None, "a parameter is bound before any pass runs"
    return value.const_value


def _replace(value: ir.Value, compute: weights.Compute) -> None:
    shape = weights.size_of(value)
    value.const_value = weights.weight(str(value.name), compute, shape=shape).const_value
