"""Sizes in bytes, read and written; counts, written. (stdlib only)"""

from __future__ import annotations

import re
from decimal import Decimal

from .errors import ConfigError

# Source: IEC 80000-13; k is a thousand, Ki is 1024.
_BYTES_BY_UNIT = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_BY_LOWER_CASE = {unit.lower(): number for unit, number in _BYTES_BY_UNIT.items()}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")


def parse_size(text: str, *, flag: str) -> int:
    """Read a size such as ``5GB``, ``1.5GiB`` or ``4096`` as whole bytes, rounded down.

    Args:
        text: a decimal number and a unit, in capitals or not; without a unit it is bytes.
        flag: the option that it was given to; an error names it.

    Raises:
        ConfigError: it is not such a number, the unit is unknown, or it is less than a byte.

    >>> parse_size("5GB", flag="--max-shard")
    5000000000
    >>> parse_size("1.5 KiB", flag="--max-shard")
    1536
    """
    match = _SIZE.fullmatch(text.strip())
    unit_bytes = _BY_LOWER_CASE.get(match[2].lower()) if match else None
    size_bytes = int(Decimal(match[1]) * unit_bytes) if match and unit_bytes else 0
    if size_bytes < 1:
        raise ConfigError(
            f"{flag} {text}: not a size, expected at least 1 byte in B, kB, MB, GB, KiB, MiB or "
            "GiB; write it like 5GB or 512MiB"
        )
    return size_bytes


def format_bytes(size_bytes: int) -> str:
    """Format a size in the largest decimal unit that it reaches.

    >>> format_bytes(14_483_464_192)
    '14.48 GB'
    >>> format_bytes(999)
    '999 B'
    """
    for unit in ("GB", "MB", "kB"):
        if size_bytes >= _BYTES_BY_UNIT[unit]:
            return f"{size_bytes / _BYTES_BY_UNIT[unit]:.2f} {unit}"
    return f"{size_bytes} B"


def counted(number: int, what: str, plural: str | None = None) -> str:
    """A number and what it counts, in the singular where it is one.

    >>> counted(1, "token"), counted(0, "token"), counted(2, "matrix", "matrices")
    ('1 token', '0 tokens', '2 matrices')
    """
    return f"{number} {what if number == 1 else plural or what + 's'}"


def bits_per_weight(weights_bytes: int, num_parameters: int) -> float:
    """Bits of all files of weights, divided by the number of distinct parameters.

    Scales, zero points, norms and padding count as bits; a head that is tied to the
    embedding counts once as parameters.

    >>> bits_per_weight(1000, 1000)
    8.0
    """
    return round(8 * weights_bytes / num_parameters, 3)
