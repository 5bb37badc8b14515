"""Binds a traced graph's parameters to lazy weights: read when they are written."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...graphs import weights
from ...runtime.errors import TraceError

_NOWHERE = "not bound"


def leave_unbound(value: ir.Value) -> None:
    """Make an initializer a parameter without numbers: its type and shape are all there is.

    Raises:
        TraceError: it was traced without a type or shape.
    """
    if value.shape is None or value.dtype is None:
        raise TraceError(f"parameter {value.name} was traced without a type or shape")
    value.const_value = ir.ExternalTensor(
        _NOWHERE, 0, None, value.dtype, shape=value.shape, name=str(value.name)
    )


def bind(
    graph: ir.Graph,
    read: Callable[[str], np.ndarray],
    rows_of: Callable[[str], weights.ComputeRows | None] = lambda _name: None,
) -> None:
    """Give every parameter its lazy weight; constants have their numbers already.

    Args:
        graph: as traced.
        read: yields a parameter of ``Mistral`` by name, float32; called when a weight is written.
        rows_of: what yields some rows of a parameter alone; None where all come at once.
    """
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.location == _NOWHERE:
            source = functools.partial(read, name)
            shape = tensor.shape.numpy()
            lazy = weights.weight(name, source, shape=shape, compute_rows=rows_of(name))
            value.const_value = lazy.const_value
