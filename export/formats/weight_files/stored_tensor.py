"""Where a parameter's numbers come from: a tensor's rows, read from its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ....runtime.errors import CheckpointError
from ...files.held_files import HeldFile
from ..gguf_package import gguf

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# All formats store the least significant byte first.
_DECODERS: dict[str, Callable[[Bytes], NDArray[Any]]] = {
    "F32": lambda raw: raw.view("<f4"),
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "BF16": lambda raw: (raw.view("<u2").astype(np.uint32) << 16).view(np.float32),
    "F64": lambda raw: _to_float32(raw.view("<f8")),
    "F8_E4M3": lambda raw: raw.view(ml_dtypes.float8_e4m3fn).astype(np.float32),
    "F8_E5M2": lambda raw: raw.view(ml_dtypes.float8_e5m2).astype(np.float32),
    "F8_E8M0": lambda raw: raw.view(ml_dtypes.float8_e8m0fnu).astype(np.float32),
    "U8": lambda raw: raw.astype(np.float32),  # exponents of scales
}


class TensorSource(Protocol):
    """The numbers of one parameter, in the order of the rows that its format has."""

    @property
    def path(self) -> Path:
        """The file that messages name."""

    @property
    def name(self) -> str:
        """The tensor's name there."""

    @property
    def dtype(self) -> str:
        """Its type, as GGUF names it, and safetensors where they share it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    def slices(self, rows: int) -> Iterator[Floats]:
        """Yield ``rows`` rows at a time, float32; a vector comes whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor's header: what it is, and where its rows lie, one after the other."""

    file: HeldFile  # that holds it
    name: str
    dtype: str  # as GGUF names it, and safetensors where they share it
    shape: tuple[int, ...]  # rows first
    offset: int  # of the first row, in bytes from the start of the file
    size: int  # in bytes

    @property
    def path(self) -> Path:
        """The file's."""
        return self.file.path

    def slices(self, rows: int) -> Iterator[Floats]:
        """Yield ``rows`` rows at a time, float32; a vector comes whole.

        F16 and BF16 widen exactly, F64 is rounded, quantized types become the numbers that they
        stand for. The file is read and not mapped: pages that were touched would stay in memory
        until its end.

        Raises:
            CheckpointError: the file is unreadable, or ends before the tensor does.
        """
        total = self.shape[0] if len(self.shape) > 1 else 1
        for start in range(0, total, rows):
            yield self.rows(start, min(start + rows, total))

    def rows(self, start: int, stop: int) -> Floats:
        """Rows from one to before another, as ``slices`` yields them; a vector is one row.

        Raises:
            CheckpointError: as ``slices``.
        """
        row_bytes = self.size // (self.shape[0] if len(self.shape) > 1 else 1)
        raw = np.empty((stop - start) * row_bytes, np.uint8)
        try:
            found = self.file.read_into(raw.data, self.offset + start * row_bytes)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: unreadable ({error}), expected what was there when it was "
                "opened; download the file again"
            ) from error
        if found < raw.size:
            raise CheckpointError(
                f"{self.path}: ends within {self.name}, expected what was there when it was "
                "opened; download the file again"
            )
        return self._decode(raw.reshape(stop - start, row_bytes))

    def _decode(self, raw: Bytes) -> Floats:
        """(n, row bytes) uint8 to (n, ...) float32."""
        if self.dtype in _DECODERS:
            values = _DECODERS[self.dtype](raw)
        else:
            # A block's scale may be no number; the checkpoint looks for that in the result.
            with np.errstate(invalid="ignore", over="ignore"):
                values = gguf.dequantize(raw, gguf.GGMLQuantizationType[self.dtype])
        return values.reshape(-1, *self.shape[1:])


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivedTensor:
    """Numbers that are computed from a stored tensor, which messages name."""

    stored: TensorSource

    @property
    def path(self) -> Path:
        """The stored tensor's file."""
        return self.stored.path

    @property
    def name(self) -> str:
        """The stored tensor's."""
        return self.stored.name

    @property
    def dtype(self) -> str:
        """As stored."""
        return self.stored.dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class StridedTensor(DerivedTensor):
    """A tensor whose rows do not lie one after the other, such as a transposed one.

    ``stored`` is a vector: the elements from the tensor's first to its last.
    """

    shape: tuple[int, ...]  # rows first
    strides: tuple[int, ...]  # in elements

    def slices(self, rows: int) -> Iterator[Floats]:
        """Yield ``rows`` rows at a time, float32; a vector comes whole.

        All of it is in memory meanwhile.

        Raises:
            CheckpointError: as ``StoredTensor.slices``.
        """
        (flat,) = self.stored.slices(1)
        steps = [stride * flat.itemsize for stride in self.strides]
        values = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        count = rows if len(self.shape) > 1 else max(1, len(values))
        for start in range(0, len(values), count):
            yield np.ascontiguousarray(values[start : start + count])


def _to_float32(values: NDArray[np.float64]) -> Floats:
    """Round; what is too large becomes infinite, which the checkpoint looks for."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
