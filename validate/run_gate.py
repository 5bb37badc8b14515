"""Runs the gate on our artifacts and on other exporters' graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..export.formats.checkpoint import Checkpoint
from ..export.window_choice import WindowChoice, adapted
from ..runtime.contract import NATIVE_MODEL_FILE
from ..runtime.manifest import to_json
from .causes.explain import Explanation, explain
from .gate import Gate
from .graph_under_test import open_graph_under_test
from .measurement import GateOptions, Measurement
from .report.content import as_json
from .report.page import render_page
from .tokenizer.checked_files import CheckedFiles
from .verdict import headline, raise_if_broken

FOLDER = "parity"
NATIVE_FOLDER = "native"  # in it: of the graph with our own attention kernel
JSON_FILE, PAGE_FILE = "report.json", "report.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was measured, and why it failed where it did."""

    measurement: Measurement
    explanation: Explanation | None

    def as_json(self, *, name: str | None = None) -> dict[str, Any]:
        """The report; ``report/schema.json`` describes it. ``name`` is the artifact's."""
        return as_json(self.measurement, self.explanation, name=name)


def require_parity(
    artifact: Path,
    checkpoint: Checkpoint,
    options: GateOptions | None = None,
    *,
    name: str | None = None,
    checked: CheckedFiles | None = None,
) -> dict[str, Any]:
    """Run the gate on a new artifact: write its reports into it, and return its headline figures.

    Args:
        artifact: its folder, which may not have its own name yet.
        checkpoint: what it was exported from.
        options: how to measure.
        name: that it will have; None for that of the folder.
        checked: of its tokenizer, which is not checked again where its files are the same.

    Returns:
        Its headline figures.

    Raises:
        ParityError: a check failed; the message names each, and the first bad tensor.
    """
    options = options or GateOptions()
    verdict = validate(artifact, checkpoint, options, explains=True, checked=checked)
    checks, why = verdict.measurement.checks, verdict.explanation
    raise_if_broken(checks, artifact=Path(name or artifact), explanation=str(why or ""))
    write_reports(verdict, artifact / FOLDER, name=name)
    native = artifact / NATIVE_MODEL_FILE
    if native.is_file():
        again = validate(native, checkpoint, options, explains=True, checked=checked)
        raise_if_broken(
            again.measurement.checks,
            artifact=Path(name or artifact) / NATIVE_MODEL_FILE,
            explanation=str(again.explanation or ""),
        )
        write_reports(again, artifact / FOLDER / NATIVE_FOLDER, name=name)
    return headline(checks)


def validate(
    artifact: Path,
    checkpoint: Checkpoint,
    options: GateOptions,
    *,
    explains: bool = False,
    window: WindowChoice | None = None,
    checked: CheckedFiles | None = None,
) -> Verdict:
    """Compare an artifact, or another exporter's graph, with a checkpoint.

    Args:
        artifact: what ``open_graph_under_test`` takes.
        checkpoint: what it was exported from.
        options: how to measure.
        explains: find the cause if a check fails.
        window: of another exporter's graph; None for the checkpoint's.
        checked: as ``require_parity`` takes it.

    Raises:
        ContractError: it cannot be opened or fed, or is of another geometry.
        CheckpointError: a weight of the checkpoint is unreadable, or it changed since it was
            opened.
    """
    config = adapted(checkpoint.config, window=window)
    tested = open_graph_under_test(artifact, config, adapters=checkpoint.adapter_hashes())
    gate = Gate(tested, checkpoint, options, checked=checked)
    measurement = gate.measure()
    explanation = explain(gate, measurement) if explains else None
    checkpoint.refuse_changed()
    return Verdict(measurement=measurement, explanation=explanation)


def write_reports(verdict: Verdict, folder: Path, *, name: str | None = None) -> None:
    """Write the report as HTML and as JSON into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = verdict.as_json(name=name)
    (folder / JSON_FILE).write_text(to_json(content), encoding="utf-8")
    (folder / PAGE_FILE).write_text(render_page(content), encoding="utf-8")
