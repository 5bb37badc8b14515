"""Reads a text file that a flag names."""

from __future__ import annotations

from pathlib import Path

from ..runtime.errors import ConfigError


def read_text(path: Path, *, flag: str) -> str:
    """Read a file of UTF-8.

    Raises:
        ConfigError: no such file, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path}: {error}; name a UTF-8 text file") from error
