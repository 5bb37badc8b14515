"""Tests of ``tramontane run``."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.console import status

from ..calls import refusal


def test_run_prints_the_prompt_and_what_follows(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(artifact), "--prompt", "import ", "--max-new-tokens", "8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("import ")
    assert len(out) > len("import \n")


def test_a_prompt_is_an_argument_an_option_or_standard_input(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompt(*words: str, typed: bytes = b"") -> str:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="ascii"))
        options = ["--max-new-tokens", "1", "--json"]
        assert cli.main(["run", str(artifact), *words, *options]) == 0
        return str(json.loads(capsys.readouterr().out)["prompt"])

    assert prompt("def f(", typed=b"not this") == prompt("--prompt", "def f(") == "def f("
    for typed, expected in (
        (b"def f", "def f"),
        (b"def f\n", "def f"),
        (b"def f\r\n", "def f"),
        (b" def f\n\n", " def f\n"),
        (b"\xef\xbb\xbfdef f\n", "def f"),
        ("é→".encode(), "é→"),
    ):
        assert prompt(typed=typed) == expected
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", str(artifact), "a", "--prompt", "b"])
    assert stop.value.code == status.EXIT_BAD_INPUT


def test_an_artifact_that_is_missing_is_told_before_standard_input_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert "no such folder" in refusal(capsys, "run", tmp_path / "missing")


def test_sampling_with_one_seed_gives_one_text(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for seed in (1, 1, 2):
        options = ["--temperature", "1.0", "--top-k", "50", "--top-p", "0.9", "--seed", str(seed)]
        assert cli.main(["run", str(artifact), "--prompt", "def f(", "--json", *options]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1] != texts[2]


def test_the_driver_decodes_without_torch_or_onnx(artifact: Path) -> None:
    code = (
        "import sys; from tramontane.cli import main as cli\n"
        f"cli.main(['run', {str(artifact)!r}, '--prompt', 'import', '--max-new-tokens', '4'])\n"
        "assert not {'torch', 'onnx', 'onnx_ir', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_empty_prompt_is_fine_only_where_a_start_token_is_added(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for adds, out in ((True, tmp_path / "with"), (False, tmp_path / "without")):
        checkpoint = tiny_checkpoint()
        (checkpoint / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": adds}))
        arguments = ["export", str(checkpoint), "--quant", "fp32", "--out", str(out)]
        assert cli.main([*arguments, "--no-validate"]) == 0
    assert cli.main(["run", str(tmp_path / "with"), "", "--max-new-tokens", "2"]) == 0
    assert "nothing to decode from" in refusal(capsys, "run", tmp_path / "without", "")


def test_a_reader_who_has_read_enough_is_no_error(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    tramontane = [sys.executable, "-m", "tramontane.cli.main", "run", str(artifact)]
    with subprocess.Popen(
        [*tramontane, "--prompt", "def main("], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(4)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == status.EXIT_NOT_READ
