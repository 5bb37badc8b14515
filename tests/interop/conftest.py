"""Which artifact and job do the tests of interop share?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.interop import cases
from tramontane.interop.cases import Case, Exported


@pytest.fixture
def exported(
    embedded_artifact: Callable[[str], Path],
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Exported:
    """The embedded model in fp32 and its job, as ``cases.export`` makes them of a made artifact."""
    made = embedded_artifact("fp32-ort")

    def copy(checkpoint: Path, folder: Path, options: ExportOptions, *, resume: bool) -> None:
        shutil.copytree(made, folder)  # onnx reads no weights that are linked twice

    with monkeypatch.context() as patch:
        patch.setattr(cases, "export_checkpoint", copy)
        return cases.export(_first_case(stdlib_5m), tmp_path / "artifact")


def _first_case(model: Path) -> Case:
    return next(cases.cases(model, None))
