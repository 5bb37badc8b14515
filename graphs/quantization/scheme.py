"""How a matrix is quantized: bits, block, method and type of its scales. (stdlib only)"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

BITS = (2, 4, 8)  # that codes may have
FLOAT_SCALES, BYTE_SCALES = SCALE_TYPES = ("float32", "uint8")
_FLOAT_BYTES, _FACTOR_BYTES = 4, 2
# That MatMulNBits multiplies in int8, by bits; smaller ones of 2 bits it would unpack each time.
_SMALLEST_BLOCK = {2: 32, 4: 16, 8: 16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How a matrix is quantized."""

    bits: int  # one of ``BITS``
    block: int  # weights that share a scale
    method: str = "round_to_nearest"  # as in ``methods/all_methods.py``
    scales: str = FLOAT_SCALES  # the type that scales are stored in, one of ``SCALE_TYPES``

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is the same code in all blocks, so that none need be stored."""
        return self.bits == 8

    @property
    def has_byte_scales(self) -> bool:
        """Whether scales are bytes times a factor a row, as in ``scales_in_bytes.py``."""
        return self.scales == BYTE_SCALES

    def blocks_of(self, columns: int) -> int:
        """Blocks of one row, the last of them possibly short."""
        return -(-columns // self.block)

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row as MatMulNBits reads it: its last block filled, scales, zero points."""
        blocks = self.blocks_of(columns)
        zero_points = 0 if self.is_symmetric else -(-blocks * self.bits // 8)
        scales = blocks + _FACTOR_BYTES if self.has_byte_scales else blocks * _FLOAT_BYTES
        return blocks * self.block * self.bits // 8 + scales + zero_points

    def fitted(self, columns: int) -> Scheme:
        """The block, this one or a smaller, that stores such a row in the fewest bytes.

        A block that divides the columns is kept. Of two that take as much, the larger is faster.

        >>> scheme = Scheme(bits=8, block=128)
        >>> [scheme.fitted(columns).block for columns in (4096, 576, 288, 172, 4160)]
        [128, 64, 32, 64, 128]
        """
        blocks = [self.block]
        while blocks[-1] >= 2 * _SMALLEST_BLOCK[self.bits]:
            blocks.append(blocks[-1] // 2)
        schemes = [dataclasses.replace(self, block=block) for block in blocks]
        return min(schemes, key=lambda one: one.row_bytes(columns))

    def fills_bytes(self, columns: int) -> bool:
        """Whether the codes of a row of so many weights fill whole bytes."""
        return columns * self.bits % 8 == 0
