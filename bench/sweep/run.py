"""Runs the cases of a sweep that are not done yet, and joins the figures of all.

Beside each artifact a file notes what it was made of. An artifact that is there and whole, and was
made of the same, is not exported again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from ...console.progress import say, track
from ...console.tasks.scheduler import Scheduler
from ...runtime.errors import CheckpointError, ContractError
from ...runtime.manifest import Manifest, read_manifest, verify_files
from ...runtime.sizes import counted
from ...runtime.untrusted.json_text import read_typed
from ...validate.run_gate import FOLDER, JSON_FILE
from ..quality.rows import pareto_front
from .cases import Asked, ModelCases, SweepCase, cases_of
from .export_case import Refused, export_case

_LABEL = "exporting and measuring"
_NOTE_SUFFIX = ".sweep.json"  # of the file that notes what an artifact was made of
FIGURES = (  # of the parity check, by the names that the manifest gives them
    *("mean_kl", "mean_kl_on_random_tokens", "same_top", "perplexity_ratio"),
    *("max_logit_difference", "same_greedy_tokens", "greedy_tokens"),
)


_REMEDY = "remove the artifact, and run the command again"


class _Note(TypedDict):
    """What an artifact was made of, and which it was."""

    made_of: str
    manifest: str


class _Headline(TypedDict):
    """``FIGURES``; None: not a number."""

    mean_kl: float | None
    mean_kl_on_random_tokens: float | None
    same_top: float
    perplexity_ratio: float | None
    max_logit_difference: float | None
    same_greedy_tokens: int
    greedy_tokens: int


class _MeasuredOn(TypedDict):
    text: str
    text_sha256: str


class _Check(TypedDict):
    kind: str
    figures: dict[str, float | None]


class _Machine(TypedDict):
    processor: str


class _Tools(TypedDict):
    tramontane: str
    onnxruntime: str


class _Report(TypedDict):
    """What is shown of a parity report."""

    headline: _Headline
    measured_on: _MeasuredOn
    checks: list[_Check]
    machine: _Machine
    tools: _Tools


def sweep(asked: Asked, scheduler: Scheduler) -> dict[str, Any]:
    """Export and measure all cases; the report, by model.

    Args:
        asked: the models, recipes and targets.
        scheduler: what runs the exports.

    Raises:
        ConfigError, CheckpointError: as ``cases_of``.
        ConfigError, CheckpointError, ContractError, TraceError: as ``export_case``; artifacts
            that are whole stay for the next run.
    """
    asked.out.mkdir(parents=True, exist_ok=True)
    models = cases_of(asked)
    every = [case for model in models for case in model.cases if case.lacks_kernels is None]
    missing = [case for case in track(every, "looking for whole artifacts") if not is_done(case)]
    if len(missing) < len(every):
        say(f"{len(every) - len(missing)} of {counted(len(every), 'artifact')}: there and whole")
    refused: dict[Path, Refused] = {}
    for number, outcome in scheduler.run(export_case, missing, _LABEL) if missing else ():
        case = missing[number]
        if outcome is None:
            _note(case)
        else:
            refused[case.artifact] = outcome
    return {"models": [_of_a_model(model, refused) for model in models]}


def is_done(case: SweepCase) -> bool:
    """Whether the artifact is whole, passed its parity check, and was made of the same things."""
    try:
        noted: _Note = read_typed(_Note, _note_path(case))
        if noted["made_of"] != case.made_of:
            return False
        manifest = read_manifest(case.artifact)
        verify_files(case.artifact, manifest)
    except (OSError, ContractError):  # unreadable, missing or damaged
        return False
    return manifest.parity is not None and noted["manifest"] == manifest.sha256


def _note(case: SweepCase) -> None:
    """Note what a new artifact was made of.

    Raises:
        ContractError: there is none.
        CheckpointError: a worker read other files.
    """
    try:
        manifest, report = read_manifest(case.artifact), _report(case.artifact)
    except (ContractError, OSError) as error:
        raise ContractError(
            f"{case.artifact}: exported, but not found from here ({error}), expected a folder "
            "that all workers and this process see under one path; name such an --out"
        ) from error
    expected = case.source, case.recipe.text, case.text_sha256
    if (manifest.source, manifest.recipe, report["measured_on"]["text_sha256"]) != expected:
        raise CheckpointError(
            f"{case.artifact}: made of other files than this process reads, expected the same "
            "checkpoint, recipe and text on every machine; put them where every machine has them "
            "under the same path"
        )
    noted = {"made_of": case.made_of, "manifest": manifest.sha256}
    _note_path(case).write_text(json.dumps(noted) + "\n", encoding="utf-8")


def _note_path(case: SweepCase) -> Path:
    return case.artifact.with_name(f"{case.artifact.name}{_NOTE_SUFFIX}")


def _of_a_model(model: ModelCases, refused: Mapping[Path, Refused]) -> dict[str, Any]:
    """The rows of one model, and what they were measured on."""
    rows = [_row(case, refused.get(case.artifact)) for case in model.cases]
    front = pareto_front(rows)
    return {
        "model": model.model,
        "num_parameters": model.num_parameters,
        "measured": _joined([row.pop("measured") for row in rows if "measured" in row]),
        "rows": [{**row, "is_on_front": row["name"] in front} for row in rows],
    }


def _row(case: SweepCase, refused: Refused | None) -> dict[str, Any]:
    about = {
        "name": case.name,
        "family": case.target,
        "recipe": case.recipe.name,
        "target": case.target,
        "is_quantized": case.recipe.is_quantized,
        "failed_parity": refused is not None and refused.failed_parity,
    }
    if case.lacks_kernels is not None:
        return {**about, "why": f"not supported: --target {case.target}: {case.lacks_kernels}"}
    if refused is not None:
        what = "failed" if refused.failed_parity else "not supported"
        return {**about, "why": f"{what}: {refused.why}"}
    manifest = read_manifest(case.artifact)
    return {**about, "why": "", **_figures(manifest, case.artifact)}


def _figures(manifest: Manifest, artifact: Path) -> dict[str, Any]:
    """Size, and what the parity check measured.

    Raises:
        ContractError: its report cannot be read.
    """
    assert manifest.parity is not None, "an artifact of a sweep was measured"
    report = _report(artifact)
    headline: Mapping[str, object] = report["headline"]
    return {
        "artifact": artifact.name,
        "bits_per_weight": manifest.bits_per_weight,
        "weights_bytes": manifest.memory.weights_bytes,
        **{name: headline[name] for name in FIGURES},
        "measured": {
            "text": report["measured_on"]["text"],
            "positions": _positions(report, artifact),
            "processor": report["machine"]["processor"],
            "versions": {name: report["tools"][name] for name in ("tramontane", "onnxruntime")},
        },
    }


def _report(artifact: Path) -> _Report:
    """Of the parity check that the artifact passed."""
    found: _Report = read_typed(_Report, artifact / FOLDER / JSON_FILE, remedy=_REMEDY)
    return found


def _positions(report: _Report, artifact: Path) -> int:
    """Of the text that the distance was measured on."""
    for check in report["checks"]:
        if check["kind"] == "distance" and (found := check["figures"].get("positions")):
            return int(found)
    raise ContractError(
        f"{artifact / FOLDER / JSON_FILE}: checks has no positions of a distance, expected those "
        f"of the text; {_REMEDY}"
    )


def _joined(measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What figures were measured on and with: each combination once."""
    found: list[dict[str, Any]] = []
    for one in measured:
        if one not in found:
            found.append(dict(one))
    return found
