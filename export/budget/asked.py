"""The size that a recipe is asked for: what ``--quant auto`` means. (stdlib only)"""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.errors import ConfigError
from ...runtime.sizes import parse_size

AUTO = "auto"  # of ``--quant``: the recipe that a budget finds
_FEWEST_BITS, _MOST_BITS = 1, 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The files of weights are to have at most this size; ``asked_for`` checks the values."""

    size: str | None = None  # as ``parse_size`` reads it
    bits: float | None = None  # per weight, over all files of weights

    @property
    def option(self) -> str:
        """The option that was given, for messages."""
        return f"--size {self.size}" if self.size is not None else f"--bits {self.bits:g}"

    @property
    def name(self) -> str:
        """Of the recipe that is found, as a part of a folder's name.

        >>> Asked(bits=4.5).name, Asked(size="3.8 GB").name
        ('auto-4.5-bits', 'auto-3.8GB')
        """
        if self.size is not None:
            return f"{AUTO}-{''.join(self.size.split())}"
        return f"{AUTO}-{self.bits:g}-bits"

    def most_bytes(self, num_parameters: int) -> int:
        """Bytes of the files of weights."""
        if self.size is not None:
            return parse_size(self.size, flag="--size")
        assert self.bits is not None, "one of both was given"
        return int(self.bits * num_parameters / 8)


def asked_for(*, size: str | None, bits: float | None) -> Asked:
    """The values of two options, of which one is given.

    Raises:
        ConfigError: none or both are given, or one is no size.
    """
    if (size is None) == (bits is None):
        found = "neither is" if size is None else "both are"
        raise ConfigError(
            f"--size, --bits: {found} given, expected one of them, such as --bits 5; it is the "
            "size that the files of weights may have"
        )
    if size is not None:
        parse_size(size, flag="--size")
    elif bits is not None and not _FEWEST_BITS <= bits <= _MOST_BITS:
        raise ConfigError(
            f"--bits {bits:g}: expected {_FEWEST_BITS} to {_MOST_BITS} bits a weight; try 5"
        )
    return Asked(size=size, bits=bits)
