"""How does a weight stay where it is until the moment it is written?

A weight in a graph is a recipe: its type and shape are known, its numbers are computed when they
are asked for and then let go. Passes compose recipes; only the writer asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ..errors import GraphError


def weight(
    name: str,
    compute: Callable[[], np.ndarray],
    *,
    shape: Sequence[int],
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Value:
    """Make an initializer whose numbers ``compute`` yields, anew each time they are read.

    Raises:
        GraphError: on reading, when ``compute`` yields another shape or type.
    """

    def read() -> ir.TensorProtocol:
        array = compute()
        if array.shape != tuple(shape) or array.dtype != dtype.numpy():
            raise GraphError(
                f"weight {name}: computed as {array.dtype} {array.shape}, "
                f"the graph says {dtype.numpy()} {tuple(shape)}"
            )
        return ir.tensor(array, dtype=dtype, name=name)

    tensor = ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(shape), name=name)
    return ir.Value(
        name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor
    )


def read(value: ir.Value) -> np.ndarray:
    """The numbers of an initializer, computed now."""
    if value.const_value is None:
        raise GraphError(f"{value.name} holds no numbers; expected a weight")
    return value.const_value.numpy()


def size_of(value: ir.Value) -> tuple[int, ...]:
    """The shape of an initializer, known without reading it."""
    if value.const_value is None:
        raise GraphError(f"{value.name} has no known shape; expected a weight")
    return tuple(value.const_value.shape.numpy())


def transposed(value: ir.Value) -> ir.Value:
    """A matrix with its rows as columns, under the same name."""
    rows, columns = size_of(value)
    return weight(
        f"{value.name}.transposed",
        lambda: np.ascontiguousarray(read(value).T),
        shape=(columns, rows),
    )


def stacked(name: str, values: Sequence[ir.Value]) -> ir.Value:
    """Matrices of equally many columns, one above the other."""
    sizes = [size_of(value) for value in values]
    return weight(
        name,
        lambda: np.concatenate([read(value) for value in values]),
        shape=(sum(rows for rows, _ in sizes), sizes[0][1]),
    )
