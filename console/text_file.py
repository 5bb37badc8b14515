"""Reads a text file that a flag names."""

from __future__ import annotations

import io
from pathlib import Path

from ..runtime.errors import ConfigError
from ..runtime.sizes import format_bytes

_MOST_BYTES = 1 << 28  # a book has a million


def read_text(path: Path, *, flag: str) -> str:
    """Read a file of UTF-8.

    Raises:
        ConfigError: no such file, one without end, or not UTF-8.
    """
    try:
        with path.open("rb") as file:  # it may be a pipe, such as a shell makes of <(command)
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it is larger than {format_bytes(_MOST_BYTES)}")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{flag} {path}: {why}; name a UTF-8 text file") from error
