"""Where the tests of writing put an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the artifact shall lie; its parent holds nothing else."""
    return tmp_path / "models" / "artifact"
