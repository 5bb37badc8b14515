"""Tests of the command as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.console.status import EXIT_INTERRUPTED

from .calls import refusal


def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert f"{missing}: no such folder" in refusal(capsys, "export", missing)
    assert f"{missing}: no such folder" in refusal(capsys, "run", missing)
    assert f"{tmp_path}: not a checkpoint" in refusal(capsys, "export", tmp_path)


def test_ctrl_c_while_arguments_are_read_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parser", interrupt)
    assert cli.main(["export"]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "\ntramontane: interrupted\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tramontane.cli import main as cli\n"
        "try: cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'onnx', 'numpy', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--prompt" in done.stdout
    assert "example" in done.stdout


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
@pytest.mark.parametrize(
    "words",
    [
        ["export", "@"],
        ["export", "models/stdlib-5m", "--out", "@"],
        ["export", "models/stdlib-5m", "--adapter", "@"],
        ["synthesize", "mistral-7b-v0.1", "@"],
        ["bench", "artifact", "--out", "@"],
    ],
)
def test_paths_that_no_system_has_are_one_line(
    words: list[str], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([path if word == "@" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert "expected a path without NUL" in said
    assert said.count("\n") == 1
