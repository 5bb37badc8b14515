"""What a worker must have in common with the process that began the work, else it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..runtime.errors import ConfigError
from .fingerprint import tool_versions


def refuse_missing(path: Path, *, what: str) -> None:
    """Refuse to work where a file or folder is not under its path.

    Args:
        path: that the process which began the work gave.
        what: is expected there, such as "the checkpoint".

    Raises:
        ConfigError: nothing is there.
    """
    if not path.exists():
        raise ConfigError(
            f"{path}: not found, expected {what}; workers read it themselves: put it where every "
            "machine has it under the same path, and give that path"
        )


def refuse_other_versions(tools: Mapping[str, str], *, code: str, expected_code: str) -> None:
    """Refuse to work with other code or packages than the process that began the work.

    Args:
        tools: its versions, as ``tool_versions`` returned them.
        code: digest of the code that works here.
        expected_code: that of the process which began the work.

    Raises:
        ConfigError: naming the packages.
    """
    own = tool_versions()
    other = [f"{name} {own[name]}" for name, one in tools.items() if own[name] != one]
    if code != expected_code:
        other.append("other code of tramontane")
    if other:
        expected = ", ".join(f"{name} {version}" for name, version in tools.items())
        raise ConfigError(
            f"found {', '.join(other)}, expected {expected} and the same code of tramontane as "
            "on the machine that began the work; install them there"
        )
