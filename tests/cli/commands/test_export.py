"""Tests of ``tramontane export``."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.cli.export_gate import ExportGate
from tramontane.console import status
from tramontane.export import build
from tramontane.graphs.writing import artifact as artifact_module
from tramontane.runtime.contract import DATA_FILE
from tramontane.runtime.errors import ParityError
from tramontane.runtime.manifest import read_manifest
from tramontane.validate import run_gate

from ..calls import output, refusal


def fail(*_: object, **__: object) -> None:
    raise ParityError("far off")


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_is_replaced_is_named_before_the_work_and_kept_until_the_new_one_is_whole(
    artifact: Path,
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    shutil.copytree(artifact, out)
    before = (out / "manifest.json").read_bytes()

    monkeypatch.setattr(ExportGate, "prove_tokenizer", lambda *_: None)
    monkeypatch.setattr(run_gate, "require_parity", fail)
    assert cli.main(["export", str(stdlib_5m), "--out", str(out)]) == status.EXIT_FAILED
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        f"{out}: the artifact there (stdlib-5m, int8 for ort) is replaced when the new one passes "
        "its parity check; --no-replace keeps it"
    )
    assert (out / "manifest.json").read_bytes() == before
    message = refusal(capsys, "export", stdlib_5m, "--out", out, "--no-replace")
    assert f"{out}: holds an artifact (stdlib-5m, int8 for ort), expected none" in message
    assert "tracing" not in message


def test_parity_that_failed_prints_the_commands_that_look_into_it(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(build, "export_checkpoint", lambda *_, gate, **__: gate(tmp_path, None))
    monkeypatch.setattr(run_gate, "require_parity", fail)
    words = ["--block", "32", "--kv", "int8", "--quant", "int4", "--out", str(tmp_path / "it's")]
    assert cli.main(["export", str(stdlib_5m), *words]) == status.EXIT_FAILED
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    export, validate = (
        shlex.split(line)
        for line in lines
        if line.startswith(("/", ".venv", "tr")) and "stdlib" in line
    )
    start = export.index("export")
    again = cli.parser().parse_args(export[start:])
    assert (again.quant, again.block, again.kv, again.no_validate) == ("int4", 32, "int8", True)
    asked = cli.parser().parse_args(validate[validate.index("validate") :])
    assert asked.artifact == again.out == tmp_path / "it's-unproved"  # the old one stays
    assert (asked.reference, asked.explain) == (again.checkpoint, True)


@pytest.mark.slow
def test_two_exports_of_one_input_are_the_same_bytes(
    artifact: Path, stdlib_5m: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert cli.main(["export", str(stdlib_5m), "--quant", "int8", "--out", str(again)]) == 0
    names = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(artifact) for p in artifact.rglob("*") if p.is_file())
    for name in names:
        assert (again / name).read_bytes() == (artifact / name).read_bytes(), name


def test_a_window_beyond_the_positions_is_refused(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    message = refusal(capsys, "export", stdlib_5m, "--window", 5000, "--out", out)
    assert "--window 5000: expected 1 to 4096" in message
    assert not out.exists()


def test_a_folder_that_is_no_artifact_is_not_replaced(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "is not an artifact" in refusal(capsys, "export", stdlib_5m, "--out", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_interrupted_export_exits_with_130_and_says_where_it_is_kept(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(artifact_module, "_write", interrupt)
    arguments = ["export", str(stdlib_5m), "--no-validate", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == status.EXIT_INTERRUPTED
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    assert capsys.readouterr().err.endswith(
        f"\n{tmp_path / '.out.partial'}: what was written is kept here; run the same command "
        "again to go on with it, with --no-resume to start anew\n\ntramontane: interrupted\n"
    )


def test_an_export_that_is_interrupted_before_it_writes_keeps_nothing_and_says_no_more(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(build, "trace_in_subprocess", interrupt)
    arguments = ["export", str(stdlib_5m), "--no-validate", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == status.EXIT_INTERRUPTED
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "tracing\n\ntramontane: interrupted\n"


def test_an_export_keeps_what_inspect_planned(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = json.loads(output(capsys, "inspect", stdlib_5m, "--json"))["plans"]
    out = tmp_path / "out"
    output(capsys, "export", stdlib_5m, "--quant", "int8", "--out", out, "--no-validate")
    memory = read_manifest(out).memory
    assert memory.resident_bytes == plans["int8"]["memory"]["resident_bytes"]
    assert memory.weights_bytes == (out / DATA_FILE).stat().st_size
    assert "estimated RAM to run" in output(capsys, "inspect", out)
    message = refusal(capsys, "run", out, "--max-memory", "30MB")
    assert f"{out}: needs" in message
    assert "allowed are 30.00 MB" in message
    assert output(capsys, "run", out, "--prompt", "x", "--max-memory", "1GiB").startswith("x")


@pytest.mark.slow
def test_weights_are_cut_into_the_files_that_were_asked_for(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    output(capsys, "export", stdlib_5m, "--out", out, "--no-validate", "--max-shard", "2MB")
    sizes = [path.stat().st_size for path in sorted(out.glob(f"{DATA_FILE}*"))]
    assert len(sizes) > 2
    assert max(sizes) <= 2_000_000
    assert output(capsys, "run", out, "--prompt", "x", "--verify").startswith("x")
    message = refusal(
        capsys, "export", stdlib_5m, "--out", tmp_path / "b", "--no-validate", "--max-shard", "1kB"
    )
    assert "a weight is never cut" in message
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_a_folder_whose_name_is_not_utf_8_is_exported_and_proved(
    two_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = shutil.copytree(two_layers, tmp_path / "tiny\udcff")
    out = tmp_path / "out"
    output(capsys, "export", checkpoint, "--out", out, "--quant", "fp32")
    assert read_manifest(out).origin["name"] == r"tiny\udcff"
    report = json.loads((out / "parity" / "report.json").read_bytes())
    assert report["reference"]["name"] == r"tiny\udcff"
