"""Is each case exported once, and its outcome told: figures, or why there are none?"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tramontane.bench.sweep import export_case as exporting
from tramontane.bench.sweep import run
from tramontane.bench.sweep.cases import Asked, SweepCase, cases_of
from tramontane.bench.sweep.export_case import Refused, export_case
from tramontane.bench.sweep.run import sweep
from tramontane.console.tasks.in_process import InProcess
from tramontane.console.tasks.on_dask import OnDask
from tramontane.console.tasks.scheduler import open_scheduler
from tramontane.runtime.errors import CheckpointError, ConfigError, ContractError, TraceError
from tramontane.runtime.manifest import read_manifest

from ...support.kills_one import KillsOne
from ...support.needs_dask import needs_dask
from ...support.once import Once


class Counts(InProcess):
    """A scheduler that notes which cases it ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, task: Any, jobs: Sequence[SweepCase], label: str, **_: Any) -> Iterator[Any]:
        self.ran += [job.name for job in jobs]
        yield from super().run(task, jobs, label)


@pytest.fixture
def case(two_layers: Path, tmp_path: Path) -> SweepCase:
    asked = Asked(models=(two_layers,), recipes=("int8",), targets=("ort",), out=tmp_path)
    return cases_of(asked)[0].cases[0]


def ends(
    monkeypatch: pytest.MonkeyPatch, status: int, *, error: str = "", stderr: str = ""
) -> None:
    """Let the command end so."""
    said = json.dumps({"error": error, "message": "why"}) if error else ""

    def run(words: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, status, f"{said}\n", stderr)

    monkeypatch.setattr(exporting.subprocess, "run", run)


@pytest.mark.parametrize(
    ("status", "error"), [(1, "ParityError"), (2, "GraphError"), (2, "ConfigError")]
)
def test_a_case_that_parity_the_model_or_the_target_refuses_says_why(
    case: SweepCase, monkeypatch: pytest.MonkeyPatch, status: int, error: str
) -> None:
    ends(monkeypatch, status, error=error)
    assert export_case(case) == Refused(why="why", failed_parity=status == 1)


def test_threads_are_those_of_the_process_that_began_whatever_a_worker_has(
    case: SweepCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, str] = {}

    def run(words: Sequence[str], *, env: dict[str, str], **_: Any) -> Any:
        found.update(env)
        return subprocess.CompletedProcess(words, 0, "", "")

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "1")  # as a Dask worker does
    monkeypatch.setattr(exporting.subprocess, "run", run)
    several = dataclasses.replace(case, threads=3)
    assert export_case(several) is None
    assert [found[name] for name in names] == ["3", "3", "3"]
    assert several.made_of != case.made_of


def test_what_stops_all_cases_alike_is_raised(
    case: SweepCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends(monkeypatch, 2, error="ContractError")
    with pytest.raises(ContractError, match="^why$"):
        export_case(case)
    ends(monkeypatch, 70, stderr="a\nb")
    with pytest.raises(TraceError, match="ended with status 70, expected 0; .*: a; b"):
        export_case(case)
    ends(monkeypatch, -9)
    with pytest.raises(TraceError, match="ended by signal 9, expected it to finish.* memory"):
        export_case(case)


def test_an_artifact_that_is_not_seen_from_here_is_refused(
    case: SweepCase, two_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends(monkeypatch, 0)
    asked = Asked(models=(two_layers,), recipes=("int8",), targets=("ort",), out=tmp_path)
    with pytest.raises(ContractError, match="exported, but not found from here"):
        sweep(asked, InProcess())


def test_an_artifact_that_a_worker_made_of_other_files_is_refused(
    case: SweepCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(source=case.source, recipe=case.recipe.text, sha256="a")
    measured = {"measured_on": {"text_sha256": case.text_sha256}}
    case.artifact.parent.mkdir(exist_ok=True)
    monkeypatch.setattr(run, "read_manifest", lambda _: made)
    monkeypatch.setattr(run, "_report", lambda _: measured)
    run._note(case)
    for changed in (
        dataclasses.replace(case, source={**case.source, "config.json": "0"}),
        dataclasses.replace(case, recipe=dataclasses.replace(case.recipe, text="")),
        dataclasses.replace(case, text_sha256="0"),
    ):
        with pytest.raises(CheckpointError, match="made of other files than this process reads"):
            run._note(changed)


@pytest.mark.parametrize(
    "note", [b"", b"[]", b"\xff", b'{"made_of": 1, "manifest": "a"}', b'{"made_of": "MADE_OF"}']
)
def test_an_artifact_with_a_damaged_note_is_exported_again(case: SweepCase, note: bytes) -> None:
    case.artifact.parent.mkdir(exist_ok=True)
    run._note_path(case).write_bytes(note.replace(b"MADE_OF", case.made_of.encode()))
    assert not run.is_done(case)


HEADLINE = dict.fromkeys(run.FIGURES, 1)
REPORT = {
    "headline": HEADLINE,
    "measured_on": {"text": "a.txt", "text_sha256": "0"},
    "checks": [{"kind": "distance", "figures": {"positions": 64, "mean_kl": None}}],
    "machine": {"processor": "a chip"},
    "tools": {"tramontane": "0", "onnxruntime": "1"},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"headline": {**HEADLINE, "same_top": None}},
            "headline.same_top is None, expected a fin",
        ),
        ({"checks": [{"kind": 1}]}, r"checks\[0\].kind is 1, expected a text"),
        ({"checks": []}, "checks has no positions of a distance, expected those of the text"),
        ({"tools": []}, r"tools is \[\], expected an object"),
    ],
)
def test_a_parity_report_with_a_field_of_another_type_is_named(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "parity" / "report.json"
    path.parent.mkdir()
    path.write_text(json.dumps(REPORT))
    assert run._positions(run._report(tmp_path), tmp_path) == 64
    path.write_text(json.dumps({**REPORT, **change}))
    with pytest.raises(ContractError, match=f"^{path}: {said}"):
        run._positions(run._report(tmp_path), tmp_path)


def test_a_worker_that_lacks_what_the_case_needs_refuses_it(
    case: SweepCase, tmp_path: Path
) -> None:
    for changed in (
        {"model": tmp_path / "model"},
        {"artifact": tmp_path / "away" / "artifact"},
        {"text": tmp_path / "text"},
        {"recipe": dataclasses.replace(case.recipe, path=str(tmp_path / "my.toml"))},
    ):
        with pytest.raises(ConfigError, match="not found, expected .*; workers read it themselv"):
            export_case(dataclasses.replace(case, **changed))
    with pytest.raises(ConfigError, match="found other code of tramontane, expected"):
        export_case(dataclasses.replace(case, code="x"))


@pytest.fixture
def swept(once: Once, two_layers: Path, tmp_path: Path) -> Asked:
    """A sweep that is done, whose report lies beside its artifacts."""

    def make(out: Path) -> None:
        first = Counts()
        report = sweep(dataclasses.replace(asked, out=out), first)
        assert first.ran == ["ort fp32", "web fp32", "ort int4"]
        (out / "report.json").write_text(json.dumps(report))

    asked = Asked(
        models=(two_layers,),
        recipes=("fp32", "int4"),
        targets=("ort", "web"),
        out=tmp_path / "own",
    )
    shutil.copytree(once("sweep", make), asked.out)
    return asked


@pytest.mark.slow
def test_whole_artifacts_are_kept_damaged_ones_exported_again_with_the_same_figures(
    swept: Asked,
) -> None:
    report = json.loads((swept.out / "report.json").read_text())
    rows = {row["name"]: row for row in report["models"][0]["rows"]}
    assert rows["ort fp32"]["mean_kl"] < 1e-8 < rows["ort int4"]["mean_kl"]
    assert rows["ort int4"]["is_on_front"]
    assert rows["web int4"]["why"].startswith("not supported: --target web: browsers' WASM has no")
    second, third = Counts(), Counts()
    assert sweep(swept, second) == report
    assert second.ran == []
    (swept.out / rows["web fp32"]["artifact"] / "onnx" / "model.onnx").write_bytes(b"")
    assert sweep(swept, third) == report
    assert third.ran == ["web fp32"]


@needs_dask
@pytest.mark.slow
def test_three_workers_of_which_one_is_killed_give_the_same_page_and_weights(
    swept: Asked, tmp_path: Path
) -> None:
    together, alone = tmp_path / "together", Counts()
    asked = dataclasses.replace(swept, targets=("ort",))
    expected = sweep(asked, alone)
    assert alone.ran == []
    with open_scheduler("local:3") as scheduler:
        assert isinstance(scheduler, OnDask)
        kills = KillsOne(scheduler, when=lambda: any(together.glob(".*.partial")))
        found = sweep(dataclasses.replace(asked, out=together), kills)
    assert kills.killed
    assert found == expected
    assert not list(together.glob(".*.partial"))
    for row in found["models"][0]["rows"]:
        first, second = (read_manifest(out / row["artifact"]) for out in (swept.out, together))
        assert first.files["onnx/model.onnx_data"] == second.files["onnx/model.onnx_data"]
