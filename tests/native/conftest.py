"""The native library, built once for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.native import build
from tramontane.runtime.errors import ConfigError
from tramontane.runtime.ort import native_library

from ..support.once import Once


@pytest.fixture(scope="session")
def built(once: Once) -> Path:
    """The folder that holds the library."""
    try:
        build.find_compiler(None)
    except ConfigError as error:
        pytest.skip(str(error))
    return once("native-library", build.build)


@pytest.fixture
def library(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library, where the driver looks for it."""
    monkeypatch.setattr(native_library, "BUILT", built)
    found = native_library.find_library()
    assert found is not None
    return found


@pytest.fixture
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the library."""
    monkeypatch.setattr(native_library, "BUILT", tmp_path / "nothing")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies an artifact, to change it."""

    def copy(artifact: Path) -> Path:
        shutil.copytree(artifact, tmp_path / "copy")
        return tmp_path / "copy"

    return copy
