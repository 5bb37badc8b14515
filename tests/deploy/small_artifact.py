"""An artifact of a few bytes, for tests that run no graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tramontane.runtime.manifest import describe_file, write_manifest

from ..support.tiny_manifest import tiny_manifest


def write_artifact(folder: Path, *, files: list[str], **changes: Any) -> Path:
    """Write files of a few bytes and their manifest; ``changes`` replaces its fields."""
    (folder / "onnx").mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(b"weights")
    described = {name: describe_file(folder / name) for name in files}
    write_manifest(folder, tiny_manifest(**{"origin": {}, "files": described, **changes}))
    return folder
