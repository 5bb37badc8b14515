"""Fixtures of the tests of the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from tramontane.cli import main as cli

from ..support.once import Once


@pytest.fixture(scope="session")
def artifact(once: Once, stdlib_5m: Path) -> Path:
    """The bundled demo model in int8, exported by the command; nobody may change it."""
    words = ["export", str(stdlib_5m), "--quant", "int8", "--out"]
    return once("int8-by-command", lambda out: cli.main([*words, str(out)]))
