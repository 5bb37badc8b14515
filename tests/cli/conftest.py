"""Fixtures of the tests of the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from tramontane.cli import main as cli


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in int8, exported by the command."""
    out = tmp_path_factory.mktemp("cli") / "artifact"
    model = Path(__file__).parents[2] / "models" / "stdlib-5m"
    assert cli.main(["export", str(model), "--quant", "int8", "--out", str(out)]) == 0
    return out
