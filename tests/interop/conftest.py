"""An artifact, its job and its right answer, and runtimes that replay it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.console.processes import process_per_core
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.interop import __main__ as command
from tramontane.interop import cases, rows
from tramontane.interop.cases import Exported, MatrixCase
from tramontane.interop.judge import Answer
from tramontane.interop.runners.python import driver
from tramontane.interop.runtimes import DRIVER, Runtime

from .replays import NEW_TOKENS, Use, no_browser, replay


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


def _first_case(model: Path) -> MatrixCase:
    return next(cases.cases(model, None))


@pytest.fixture
def first_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(model: Path, shared: Path | None) -> list[MatrixCase]:
        return list(islice(cases.cases(model, None), 1))

    monkeypatch.setattr(command, "cases", first)


@pytest.fixture
def right(exported: Exported) -> Answer:
    """The driver's answer; its logits lie beside the artifact."""
    found = driver.do({**exported.job, "new_tokens": NEW_TOKENS})
    Path(exported.job["logits"]).rename(exported.folder / "logits")
    return found


@pytest.fixture
def use(
    first_case_alone: None, exported: Exported, right: Answer, monkeypatch: pytest.MonkeyPatch
) -> Use:
    """Put other runtimes beside a driver and a reference that answer at once, and rightly."""

    def with_others(
        *others: Runtime,
        quant: str = "fp32",
        driver_gives: Any = None,
        driver_scores: Callable[[np.ndarray], np.ndarray] = lambda logits: logits,
    ) -> None:
        manifest = replace(exported.manifest, quant=quant, recipe=find_recipe(quant).text)
        made = replace(exported, manifest=manifest)
        monkeypatch.setattr(rows, "export", lambda case, _: replace(made, case=case))
        monkeypatch.setattr(rows, "REFERENCE", replay("transformers", exported, right))
        ours = {**right, **(driver_gives or {})}
        scored = np.fromfile(exported.folder / "logits", "<f4")
        driver_scores(scored).tofile(exported.folder / "tramontane.logits")
        its_own = replay("tramontane", exported, ours, logits="tramontane.logits")
        its_own = replace(its_own, rounds_like=DRIVER.rounds_like)
        for module in (command, rows):
            monkeypatch.setattr(module, "DRIVER", its_own)
        monkeypatch.setattr(command, "OTHERS", others)
        monkeypatch.setattr(process_per_core, "usable_cores", list)  # all in this process

        monkeypatch.setattr(rows, "visit", no_browser)

    return with_others
