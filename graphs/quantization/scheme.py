"""The bits of a quantized value, and the weights that share a scale. (stdlib only)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How a matrix is quantized: its bits and its block."""

    bits: int  # 8 or 4
    block: int  # weights that share a scale

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is the same code in all blocks, so that none need be stored."""
        return self.bits == 8

    def blocks_of(self, columns: int) -> int:
        """Blocks of one row, the last of them possibly short."""
        return -(-columns // self.block)

    def fills_bytes(self, columns: int) -> bool:
        """Whether the codes of a row of so many weights fill whole bytes."""
        return self.bits >= 8 or columns % 2 == 0
