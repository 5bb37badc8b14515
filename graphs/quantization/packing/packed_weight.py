"""The initializers of a quantized matrix, in each layout that a kernel reads.

Kernels agree on what codes mean, and differ in how they want them laid out. Each layout is an
initializer of its own; where two hold the same bytes, the file holds them once.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import onnx_ir as ir

from ... import weights
from ...weights import Origin, Packing
from ..codes import Blocks, pack_codes
from ..methods.method import Rounder
from ..scales_in_bytes import bytes_of, factors_of
from ..scheme import Scheme


class Packed:
    """One matrix (N, K), rounded once however many readers it has.

    Its sizes are known at once; ``rounder`` is called when a weight of it is read. Where rows to
    be gathered end in a filled block, as blocks to be multiplied do, both are the same bytes.
    """

    def __init__(
        self,
        matrix: ir.Value,
        scheme: Scheme,
        rounder: Rounder,
        *,
        is_padded: bool = False,
        asked: Scheme | None = None,
        why_block: str = "",
        why_shared: str = "",
    ) -> None:
        """Read nothing yet.

        Args:
            matrix: (N, K).
            scheme: how it is rounded.
            rounder: rounds it.
            is_padded: whether rows to be gathered end in a filled block.
            asked: the recipe's scheme, where its block is another.
            why_block: why the block is another.
            why_shared: which of two lines of the recipe decides, where two match the matrix.
        """
        self._asked, self._why_shared = asked or scheme, why_shared
        self._matrix, self._rounder, self._is_padded = matrix, rounder, is_padded
        self.name = str(matrix.name)
        self.rows, self.columns = weights.size_of(matrix)
        self.scheme = scheme
        self.blocks = scheme.blocks_of(self.columns)
        whys = [why_shared] if why_shared else []
        if self._asked.block != scheme.block:
            whys.append(f"blocks of {scheme.block} instead of {self._asked.block}: {why_block}")
        self._origin = Origin(self.name, scheme.method, scheme.scales, "; ".join(whys))
        # Codes, scales and zero points are written one after the other: round once for all.
        self._read = functools.partial(_latest.round_once, matrix, scheme, rounder)

    def in_blocks_of(self, columns: int, *, why: str) -> Packed:
        """The same matrix in as many bits, rounded with a scale for so many columns."""
        return Packed(
            self._matrix,
            dataclasses.replace(self.scheme, block=columns),
            self._rounder,
            asked=self._asked,
            why_block=why,
            why_shared=self._why_shared,
        )

    @functools.cached_property
    def codes_in_blocks(self) -> ir.Value:
        """(N, blocks, block * bits / 8) uint8, short blocks filled: for MatMulNBits."""
        shape = (self.rows, self.blocks, self.scheme.block * self.scheme.bits // 8)
        return self._codes("codes", lambda: self._read().codes, shape)

    @functools.cached_property
    def codes_in_rows(self) -> ir.Value:
        """(N, ``row_columns`` * bits / 8) uint8, a row's bytes on end: what can be gathered."""
        shape = (self.rows, self._row_bytes)
        value = self._codes("rows", self._row_codes, shape)
        if self.row_columns == self.blocks * self.scheme.block:
            weights.mark_same(value, self.codes_in_blocks)
        return value

    @functools.cached_property
    def codes_in_columns(self) -> ir.Value:
        """(K, N) uint8, for kernels that multiply by a matrix as it lies; 8 bits alone."""
        shape = (self.columns, self.rows)
        return self._codes("columns", lambda: self._row_codes().T, shape)

    def part(self, number: int) -> tuple[ir.Value, ir.Value]:
        """One block of every row, which must be whole: codes and scales; 8 bits alone.

        Codes (block, N) int8 around zero, for kernels that multiply by a matrix as it lies, and
        scales (N,) float32.
        """
        block, name = self.scheme.block, f"{self.name}.part_{number}"
        assert self.columns % block == 0, "a part is as long as the others"
        codes = weights.weight(
            f"{name}.codes",
            lambda: _signed(self._read().codes[:, number]).T,
            shape=(block, self.rows),
            dtype=ir.DataType.INT8,
        )
        packing = Packing(self.scheme.bits, block, (self.rows, block))
        weights.mark_packed(codes, packing, self._origin)
        scales = weights.weight(
            f"{name}.scales", lambda: self._read().scales[:, number], shape=(self.rows,)
        )
        weights.mark_scales(scales)
        return codes, scales

    @functools.cached_property
    def elements(self) -> ir.Value:
        """(N, K) in ONNX's own types: int8 around zero, or uint4."""
        shape = (self.rows, self.columns)
        if self.scheme.bits == 4:
            value = self._codes(
                "elements", lambda: self._row_codes().reshape(-1), shape, ir.DataType.UINT4
            )
            weights.mark_same(value, self.codes_in_rows)
            return value
        return self._codes("elements", lambda: _signed(self._row_codes()), shape, ir.DataType.INT8)

    @functools.cached_property
    def scales(self) -> ir.Value:
        """(N, blocks) float32."""
        shape = (self.rows, self.blocks)
        value = weights.weight(f"{self.name}.scales", lambda: self._read().scales, shape=shape)
        weights.mark_scales(value)
        return value

    @functools.cached_property
    def byte_scales(self) -> tuple[ir.Value, ir.Value]:
        """(N, blocks) uint8, and the (N, 1) bfloat16 that they are multiplied by."""
        scales = weights.weight(
            f"{self.name}.byte_scales",
            lambda: bytes_of(self._read().scales),
            shape=(self.rows, self.blocks),
            dtype=ir.DataType.UINT8,
        )
        factors = weights.weight(
            f"{self.name}.scale_factors",
            lambda: factors_of(self._read().scales),
            shape=(self.rows, 1),
            dtype=ir.DataType.BFLOAT16,
        )
        weights.mark_scales(scales)
        weights.mark_scales(factors)
        return scales, factors

    @property
    def stored_scales(self) -> tuple[ir.Value, ...]:
        """What is stored of the scales, by the scheme."""
        return self.byte_scales if self.scheme.has_byte_scales else (self.scales,)

    @functools.cached_property
    def column_scales(self) -> ir.Value:
        """(N,) float32, one for each row of the matrix, whose block is the row."""
        value = weights.weight(
            f"{self.name}.column_scales",
            lambda: self._read().scales.reshape(self.rows),
            shape=(self.rows,),
        )
        weights.mark_scales(value)
        return value

    @functools.cached_property
    def zero_points(self) -> ir.Value:
        """(N, blocks) uint8, one to a byte."""
        return weights.weight(
            f"{self.name}.zero_points",
            lambda: self._read().zero_points,
            shape=(self.rows, self.blocks),
            dtype=ir.DataType.UINT8,
        )

    @functools.cached_property
    def packed_zero_points(self) -> ir.Value | None:
        """(N, ceil(blocks * bits / 8)) uint8; None where zero's code is fixed."""
        if self.scheme.is_symmetric:
            return None
        return weights.weight(
            f"{self.name}.packed_zero_points",
            lambda: pack_codes(self._read().zero_points, bits=self.scheme.bits),
            shape=(self.rows, -(-self.blocks * self.scheme.bits // 8)),
            dtype=ir.DataType.UINT8,
        )

    @functools.cached_property
    def zero_point_elements(self) -> ir.Value:
        """(N, blocks) uint4, as DequantizeLinear wants them beside codes of that type."""
        return weights.weight(
            f"{self.name}.zero_point_elements",
            lambda: pack_codes(self._read().zero_points.reshape(-1), bits=4),
            shape=(self.rows, self.blocks),
            dtype=ir.DataType.UINT4,
        )

    @property
    def row_columns(self) -> int:
        """Columns of a row that is gathered: K, or more where its last block is filled."""
        return self.blocks * self.scheme.block if self._is_padded else self.columns

    @property
    def _row_bytes(self) -> int:
        return self.row_columns * self.scheme.bits // 8

    def _codes(
        self,
        suffix: str,
        compute: weights.Compute,
        shape: tuple[int, ...],
        dtype: ir.DataType = ir.DataType.UINT8,
    ) -> ir.Value:
        value = weights.weight(f"{self.name}.{suffix}", compute, shape=shape, dtype=dtype)
        size = (self.rows, self.columns)
        packing = Packing(self.scheme.bits, self.scheme.block, size)
        weights.mark_packed(value, packing, self._origin)
        return value

    def _row_codes(self) -> np.ndarray:
        return self._read().codes.reshape(self.rows, -1)[:, : self._row_bytes]


def _signed(codes: np.ndarray) -> np.ndarray:
    """Codes around 128 as int8 around zero: two's complement has the topmost bit turned over."""
    return (codes ^ np.uint8(128)).view(np.int8)


class _Latest:
    """The blocks of one matrix; each is freed before the next is computed."""

    def __init__(self) -> None:
        self.key: tuple[ir.Value, Scheme, Rounder] | None = None
        self.blocks: Blocks | None = None

    def round_once(self, matrix: ir.Value, scheme: Scheme, rounder: Rounder) -> Blocks:
        """Round a matrix, unless it is the one that was rounded last."""
        if self.key != (matrix, scheme, rounder) or self.blocks is None:
            self.key = self.blocks = None
            self.blocks = rounder(weights.matrix(matrix), scheme, str(matrix.name))
            self.key = matrix, scheme, rounder
        return self.blocks


_latest = _Latest()


def forget_latest() -> None:
    """Free the matrix that was rounded last."""
    _latest.key = _latest.blocks = None
