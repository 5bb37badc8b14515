"""Do ``validate`` and ``inspect`` say what they found, in every form and by their exit status?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from tramontane.cli import main as cli
from tramontane.console import status
from tramontane.faults.planted import in_attention
from tramontane.faults.planting import planted
from tramontane.runtime.contract import MODEL_FILE

Artifact = Callable[[str], Path]
SCHEMA = Path(__file__).parents[3] / "validate" / "report" / "schema.json"


@pytest.fixture
def spoilt(embedded_artifact: Artifact, tmp_path: Path) -> Path:
    """An artifact whose attention caps its scores."""
    fault = next(one for one in in_attention.FAULTS if one.name == "scores capped")
    return planted(fault, embedded_artifact(fault.recipe), tmp_path / "spoilt")


def exit_status(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_sound_artifact_passes_and_every_report_is_written(
    embedded_artifact: Artifact,
    stdlib_5m: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = ["--report", tmp_path / "r", "--junit", tmp_path / "j.xml"]
    files += ["--markdown", tmp_path / "new" / "m.md"]
    artifact = embedded_artifact("int8-ort")
    assert exit_status("validate", artifact, "--reference", stdlib_5m, "--json", *files) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "r" / "report.json").read_text())
    jsonschema.validate(printed, json.loads(SCHEMA.read_text()))
    assert "<html" in (tmp_path / "r" / "report.html").read_text()
    assert 'failures="0"' in (tmp_path / "j.xml").read_text()
    assert ": passed" in (tmp_path / "new" / "m.md").read_text()
    assert printed["artifact"]["name"] == artifact.name
    assert not (artifact / "parity").exists()  # an artifact that is looked at stays as it was


@pytest.mark.slow
def test_a_fault_exits_with_1_and_the_cause_is_told_where_it_is_asked_for(
    spoilt: Path, stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("validate", spoilt, "--reference", stdlib_5m) == status.EXIT_FAILED
    assert "--explain finds the first bad tensor" in capsys.readouterr().out
    flags = ["--explain", "--junit", tmp_path / "j.xml", "--report", tmp_path / "r"]
    assert exit_status("validate", spoilt, "--reference", stdlib_5m, *flags) == status.EXIT_FAILED
    assert "likely cause: scores are capped at 30" in capsys.readouterr().out
    assert "scores are capped at 30" in (tmp_path / "j.xml").read_text()
    written = json.loads((tmp_path / "r" / "report.json").read_text())
    jsonschema.validate(written, json.loads(SCHEMA.read_text()))
    assert "scores are capped at 30" in (tmp_path / "r" / "report.html").read_text()


def test_what_cannot_be_validated_exits_with_2(
    embedded_artifact: Artifact,
    stdlib_5m: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    artifact = embedded_artifact("int8-ort")
    for arguments, said in (
        ([tmp_path, "--reference", stdlib_5m], "neither manifest.json nor a graph"),
        ([artifact, "--reference", tmp_path / "none"], "no such folder"),
        ([artifact, "--reference", stdlib_5m, "--tolerance", "0"], "--tolerance 0.0: expected"),
        ([artifact, "--reference", stdlib_5m, "--max-kl", "0"], "--max-kl 0.0: expected a number"),
        ([artifact, "--reference", stdlib_5m, "--min-agreement", "98"], "expected a share from 0"),
        ([artifact, "--reference", stdlib_5m, "--text", tmp_path / "none"], "--text"),
        ([artifact, "--reference", stdlib_5m, "--seed", "-1"], "--seed -1: expected 0 or more"),
    ):
        assert exit_status("validate", *arguments) == status.EXIT_BAD_INPUT
        assert said in capsys.readouterr().err


def test_a_graph_is_read_and_an_error_exits_with_1(
    embedded_artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = embedded_artifact("int8-ort") / MODEL_FILE
    assert exit_status("inspect", graph) == 0
    assert "no findings" in capsys.readouterr().out
    (tmp_path / "model.onnx").write_bytes(graph.read_bytes())  # its weights stay behind
    assert exit_status("inspect", tmp_path) == status.EXIT_FAILED
    out = capsys.readouterr().out
    assert "error: data-missing" in out
    assert "advice: " in out
    assert exit_status("inspect", tmp_path / "model.onnx", "--json") == status.EXIT_FAILED
    found = json.loads(capsys.readouterr().out)["findings"]
    assert found[str(tmp_path / "model.onnx")][0]["rule"] == "data-missing"
    (tmp_path / "model.onnx").write_bytes(b"none")
    assert exit_status("inspect", tmp_path / "model.onnx") == status.EXIT_BAD_INPUT
