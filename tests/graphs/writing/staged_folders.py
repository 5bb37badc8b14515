"""Older artifacts and interrupted runs, for the tests of staging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tramontane.graphs.writing.journal import Identity
from tramontane.graphs.writing.staging import staged
from tramontane.runtime.contract import DATA_FILE, MANIFEST_FILE
from tramontane.runtime.errors import (
    CheckpointError,
    ConfigError,
    ContractError,
    GraphError,
    ParityError,
    TraceError,
)

IDENTITY: Identity = {"quant": "int4", "block": 32, "window": None, "numpy": "2.4.6"}
OURS = [CheckpointError, ConfigError, ContractError, GraphError, ParityError, TraceError]
NOT_OURS = [KeyboardInterrupt, SystemExit, RuntimeError, MemoryError]


def write_old(out: Path, *, text: str = "old") -> None:
    """Put an artifact where another shall lie."""
    write(out / "config.json", text)
    (out / MANIFEST_FILE).write_text(manifest("config.json"))


def manifest(*files: str) -> str:
    return json.dumps({"manifest_sha256": "0" * 64, "files": {name: {} for name in files}})


def interrupt(out: Path, *, identity: Identity = IDENTITY, **options: Any) -> str:
    """Begin an artifact, write half of it and be interrupted; return the note it began with."""
    with (
        pytest.raises(KeyboardInterrupt),
        staged(out, identity=identity, **options) as staging,
    ):
        write(staging.folder / DATA_FILE, "half")
        raise KeyboardInterrupt
    return staging.note


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
