"""Deferred weights of a graph: computed only when they are written.

A weight in a graph is lazy: its type and shape are known, its numbers are computed when they
are needed, and are freed afterwards. Passes compose lazy weights; only the writer computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ..runtime.errors import GraphError

TRANSPOSED = ".transposed"  # behind the name of a matrix whose rows are stored as columns
WHOLE_BYTES = 512 << 20  # up to which a matrix is computed whole, to be read several times
Compute = Callable[[], np.ndarray]
ComputeRows = Callable[[int, int], np.ndarray]  # from a row to before another: (n, K) float32


class Packing(NamedTuple):
    """How codes represent weights."""

    bits: int  # of one code
    block: int  # weights that share a scale
    shape: tuple[int, int]  # of the matrix, however its codes are laid out


class Rows:
    """A matrix (N, K) float32 of which rows are computed whenever a slice of it is taken."""

    def __init__(self, compute: ComputeRows, *, shape: tuple[int, int]) -> None:
        """Compute nothing yet."""
        self._compute, self.shape = compute, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows (n, K); several threads may take some at once."""
        start, stop, step = rows.indices(len(self))
        assert step == 1, "rows are read in their order"
        found = self._compute(start, stop)
        if found.shape != (stop - start, self.shape[1]) or found.dtype != np.float32:
            raise GraphError(
                f"rows {start} to {stop} of {self.shape}: computed as {found.dtype} {found.shape}"
            )
        return found


Matrix = np.ndarray | Rows


class Origin(NamedTuple):
    """The matrix whose codes an initializer holds, and how it was rounded."""

    matrix: str  # its name in the graph before it was packed
    method: str
    scales: str  # the type that scales are stored in
    why_differs: str = ""  # from what the recipe says; empty where it does not


class _Weight(ir.LazyTensor):
    """A lazy tensor, some rows of which may be computed without the others."""

    compute_rows: ComputeRows | None = None


# Types without a size in bits. Other exporters' graphs may declare them.
_SIZELESS = (ir.DataType.UNDEFINED, ir.DataType.STRING)
_SAME_AS, _PACKING, _SCALES, _ORIGIN = "same_as", "packing", "scales", "origin"


def weight(
    name: str,
    compute: Compute,
    *,
    shape: Sequence[int],
    dtype: ir.DataType = ir.DataType.FLOAT,
    compute_rows: ComputeRows | None = None,
) -> ir.Value:
    """Make an initializer whose numbers ``compute`` yields, anew each time they are read.

    Types of less than a byte are computed as the bytes that hold them, low bits first. Of a
    matrix, ``compute_rows`` may yield some rows of the same numbers.

    Raises:
        GraphError: on reading, when ``compute`` yields another shape or type.
    """
    is_packed = dtype.bitwidth < 8
    expected_shape = (_num_bytes(shape, dtype),) if is_packed else tuple(shape)
    expected_dtype = np.dtype(np.uint8) if is_packed else dtype.numpy()

    def read() -> ir.TensorProtocol:
        array = compute()
        if array.shape != expected_shape or array.dtype != expected_dtype:
            raise GraphError(
                f"weight {name}: computed as {array.dtype} {array.shape}, "
                f"the graph says {expected_dtype} {expected_shape}"
            )
        if is_packed:
            return ir.PackedTensor(array, dtype, shape=ir.Shape(shape), name=name)
        return ir.tensor(array, dtype=dtype, name=name)

    tensor = _Weight(read, dtype=dtype, shape=ir.Shape(shape), name=name)
    tensor.compute_rows = compute_rows
    return ir.Value(
        name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor
    )


def read(value: ir.Value) -> np.ndarray:
    """The numbers of an initializer, computed now."""
    return _tensor(value).numpy()


def matrix(value: ir.Value) -> Matrix:
    """The numbers of a matrix: computed now, or its rows when they are taken.

    The latter of one that takes more than ``WHOLE_BYTES``, where rows can be computed alone.
    """
    shape, compute_rows = size_of(value), rows_of(_tensor(value))
    if compute_rows is None or len(shape) != 2 or num_bytes(value) <= WHOLE_BYTES:
        return read(value)
    return Rows(compute_rows, shape=(shape[0], shape[1]))


def rows_of(tensor: ir.TensorProtocol) -> ComputeRows | None:
    """What computes some rows of a weight; None where all come at once."""
    return tensor.compute_rows if isinstance(tensor, _Weight) else None


def stored(value: ir.Value) -> np.ndarray:
    """What a file holds of an initializer, computed now: numbers, or bytes that pack them."""
    tensor = _tensor(value)
    if isinstance(tensor, ir.LazyTensor):
        tensor = tensor.raw()
    return np.asarray(tensor.raw if isinstance(tensor, ir.PackedTensor) else tensor.numpy())


def size_of(value: ir.Value) -> tuple[int, ...]:
    """The shape of an initializer, known without reading it."""
    return tuple(_tensor(value).shape.numpy())


def num_bytes(value: ir.Value) -> int:
    """What an initializer takes in a file, known without reading it."""
    return int(_tensor(value).nbytes)


def transposed(value: ir.Value) -> ir.Value:
    """A matrix with its rows as columns: a view until it is written."""
    rows, columns = size_of(value)
    return weight(f"{value.name}{TRANSPOSED}", lambda: read(value).T, shape=(columns, rows))


def stacked(name: str, values: Sequence[ir.Value]) -> ir.Value:
    """Vectors, or matrices of equally many columns, one above the other; read one at a time."""
    sizes = [size_of(value) for value in values]
    shape = (sum(size[0] for size in sizes), *sizes[0][1:])

    def stack() -> np.ndarray:
        whole, start = np.empty(shape, np.float32), 0
        for value, (rows, *_) in zip(values, sizes, strict=True):
            whole[start : start + rows] = read(value)
            start += rows
        return whole

    return weight(name, stack, shape=shape)


def mark_same(value: ir.Value, other: ir.Value) -> None:
    """Mark two initializers as the same bytes in a file, whatever their shapes."""
    value.meta[_SAME_AS] = owner(other)


def owner(value: ir.Value) -> ir.Value:
    """The initializer whose bytes this one shares; itself where it shares none."""
    found: ir.Value = value.meta.get(_SAME_AS, value)
    return found


def mark_packed(value: ir.Value, packing: Packing, origin: Origin) -> None:
    """Mark an initializer as the codes of a packed matrix."""
    value.meta[_PACKING], value.meta[_ORIGIN] = packing, origin


def packing(value: ir.Value) -> Packing | None:
    """How an initializer's codes represent weights; None if it holds no codes."""
    found: Packing | None = value.meta.get(_PACKING)
    return found


def origin(value: ir.Value) -> Origin | None:
    """The matrix whose codes an initializer holds; None if it holds no codes."""
    found: Origin | None = value.meta.get(_ORIGIN)
    return found


def mark_scales(value: ir.Value) -> None:
    """Mark an initializer as scales, which are not packed themselves."""
    value.meta[_SCALES] = True


def is_scales(value: ir.Value) -> bool:
    """Whether an initializer holds the scales of codes."""
    return bool(value.meta.get(_SCALES, False))


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise GraphError(f"initializer {value.name} has no values; expected a weight")
    return value.const_value


def _num_bytes(shape: Sequence[int], dtype: ir.DataType) -> int:
    return -(-int(np.prod(shape)) * dtype.bitwidth // 8)


def bits_of(dtype: ir.DataType | None) -> int | None:
    """Bits of one number of a type; None where the type is absent, undefined or of texts.

    >>> bits_of(ir.DataType.INT4), bits_of(ir.DataType.UNDEFINED)
    (4, None)
    """
    return None if dtype is None or dtype in _SIZELESS else int(dtype.bitwidth)
