"""Smooth activations: divide channels that are large by nature, multiply what reads them.

Before:  y_i = MatMul(RMSNormalization(x, norm), Transpose(weight_i))
         y = MatMul(Mul(gated, MatMul(x, Transpose(up))), Transpose(down))
         row = Gather(weight_i, ids), where a tied head is the embedding too
After:   the same nodes, with norm / s in place of norm and weight_i * s in place of weight_i;
         with row k of up divided by s[k], and column k of down multiplied by it
         row = Mul(Gather(weight_i * s, ids), 1 / s)
Legal because what is divided has no other readers, and each channel k is divided by s[k] where it
is made and multiplied by s[k] where it is read; s[k] is a power of two, so that both are exact in
float32. What is rounded with one scale for several channels is rounded better: a channel that is
large by nature no longer leaves the others a few steps. ``export/calibrate/smoothing.py`` chooses
s.
Source: SmoothQuant, arXiv:2211.10438, section 4; with powers of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...runtime.errors import GraphError
from .. import weights
from ..linear import Linear, as_linear, linears, move_uses
from .activation_ranges import Calibration

EMBEDDING_FACTORS = "embedding.factors"  # by which gathered rows of a smoothed head are multiplied
_SMOOTHED = "smoothed"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Channels:
    """Channels that one initializer makes, a row each, and that matrices alone read."""

    made_by: ir.Value  # (K,) or (K, M)
    readers: Sequence[ir.Value]  # (N, K) each
    gathers: Sequence[ir.Node]  # that take rows of a reader


class SmoothActivations(ir.passes.InPlacePass):
    """Every norm and every ``up`` that the calibration has divisors of."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self._divisors = calibration.divisors

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any channels were smoothed.

        Raises:
            GraphError: the calibration is of another model.
        """
        smoothed = 0
        for channels in [*_normed(model.graph), *_gated(model.graph)]:
            divisors = self._divisors.get(str(channels.made_by.name))
            if divisors is None or channels.made_by.meta.get(_SMOOTHED, False):
                continue
            _refuse_other_size(channels.made_by, divisors)
            _smooth(channels, divisors)
            for gather in channels.gathers:
                _multiply_rows(model.graph, gather, divisors)
            smoothed += 1
        return ir.passes.PassResult(model, modified=smoothed > 0)


def _normed(graph: ir.Graph) -> Iterator[_Channels]:
    """Norms whose output linear layers alone read."""
    for node in graph:
        if node.op_type == "RMSNormalization" and node.inputs[1] is not None:
            found = _readers(node.outputs[0])
            others = [one for layer in found for one in _others(layer)]
            is_tied = len(found) == 1 and all(one.op_type == "Gather" for one in others)
            if found and node.inputs[1].is_initializer() and (is_tied or not others):
                readers = [layer.weight for layer in found]
                yield _Channels(made_by=node.inputs[1], readers=readers, gathers=others)


def _gated(graph: ir.Graph) -> Iterator[_Channels]:
    """Matrices whose output is a factor of what linear layers alone read."""
    for layer in linears(graph):
        uses = [node for node, _ in layer.output.uses()]
        if len(uses) == 1 and uses[0].op_type == "Mul" and not _others(layer):
            found = _readers(uses[0].outputs[0])
            if found and not any(map(_others, found)):
                readers = [reader.weight for reader in found]
                yield _Channels(made_by=layer.weight, readers=readers, gathers=[])


def _readers(value: ir.Value) -> list[Linear]:
    """The layers that multiply a value; none where anything else reads it."""
    if value.is_graph_output():
        return []
    uses = [reader for reader, _ in value.uses()]
    found = [layer for layer in map(as_linear, uses) if layer is not None]
    return found if len(found) == len(uses) else []


def _others(layer: Linear) -> list[ir.Node]:
    """What else reads the weight of a layer."""
    return [node for node, _ in layer.weight.uses() if node is not layer.transpose]


def _multiply_rows(graph: ir.Graph, gather: ir.Node, divisors: np.ndarray) -> None:
    """Give the rows of a smoothed matrix their own size again."""
    rows = gather.outputs[0]
    factors = weights.weight(EMBEDDING_FACTORS, lambda: 1 / divisors, shape=divisors.shape)
    graph.register_initializer(factors)
    again = ir.node("Mul", [rows, factors])
    graph.insert_after(gather, again)
    move_uses(rows, again.outputs[0])
    again.replace_input_with(0, rows)
    rows.name = f"{again.outputs[0].name}.stored"
    rows.type, rows.shape = again.outputs[0].type, again.outputs[0].shape


def _refuse_other_size(made_by: ir.Value, divisors: np.ndarray) -> None:
    rows = weights.size_of(made_by)[0]
    if divisors.shape != (rows,):
        raise GraphError(
            f"{made_by.name}: the calibration has {len(divisors)} channels here, expected {rows}; "
            "calibrate this checkpoint"
        )


def _smooth(channels: _Channels, divisors: np.ndarray) -> None:
    """Change weights; none is read until it is written."""
    made_by, size = channels.made_by, len(weights.size_of(channels.made_by))
    by_row = divisors.reshape(-1, *[1] * (size - 1))
    _replace(made_by, np.divide, by_row, rows=lambda start, stop: by_row[start:stop])
    for matrix in channels.readers:
        _replace(matrix, np.multiply, divisors, rows=lambda _start, _stop: divisors)
    made_by.meta[_SMOOTHED] = True


def _bound(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None, "a parameter is bound before any pass runs"
    return value.const_value


def _replace(
    value: ir.Value,
    change: Callable[[np.ndarray, np.ndarray], np.ndarray],
    factors: np.ndarray,
    *,
    rows: Callable[[int, int], np.ndarray],
) -> None:
    """Multiply or divide a weight when it is read.

    Args:
        value: (N, K), or a vector.
        change: one of the two.
        factors: of all of it.
        rows: from a row to before another, the factors of these.
    """
    tensor, name = _bound(value), str(value.name)
    some = weights.rows_of(tensor)
    value.const_value = weights.weight(
        name,
        lambda: np.asarray(change(tensor.numpy(), factors)),
        shape=weights.size_of(value),
        compute_rows=some
        and (lambda start, stop: np.asarray(change(some(start, stop), rows(start, stop)))),
    ).const_value
