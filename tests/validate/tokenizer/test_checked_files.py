"""Tests of the tokenizer's check before tracing: what differs stops the export, once is enough."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.console import status
from tramontane.console.processes import ask_module
from tramontane.export import build
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.gguf import parts
from tramontane.export.tokenizer.tokenizer import read_vocabulary
from tramontane.export.tokenizer.write_tokenizer import write_tokenizer
from tramontane.runtime.errors import CheckpointError, ContractError, TraceError
from tramontane.runtime.tokenizers.vocabulary import Vocabulary
from tramontane.validate import gate
from tramontane.validate.tokenizer import checked_files, readers
from tramontane.validate.tokenizer.check_tokenizer import check_tokenizer
from tramontane.validate.tokenizer.checked_files import check_files

from ...cli.calls import output
from ...support.tiny_tokenizers import llama_3, save

pytestmark = pytest.mark.slow

TEMPLATE = "{{ messages[0]['content'] }}<|im_end|>"


@pytest.fixture
def chat(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    model = tiny_checkpoint("LlamaForCausalLM", vocab_size=640)
    folder = shutil.copytree(model, tmp_path / "models" / "chat")
    return save(llama_3(), folder, chat_template=TEMPLATE)


def test_a_tokenizer_that_transformers_reads_otherwise_stops_the_export_before_tracing(
    chat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = chat / "tokenizer_config.json"
    settings = json.loads(path.read_bytes())
    # transformers makes this class anew from the vocabulary, and normalizes to NFC there.
    path.write_text(json.dumps({**settings, "tokenizer_class": "Qwen2Tokenizer"}))
    monkeypatch.setattr(build, "trace_in_subprocess", lambda *_: pytest.fail("traced"))
    out = tmp_path / "out" / "artifact"
    out.parent.mkdir()
    assert cli.main(["export", str(chat), "--out", str(out)]) == status.EXIT_FAILED
    told = capsys.readouterr().err
    assert "1 of 4 parity checks failed" in told
    assert f"{chat / 'tokenizer.json'}: " in told
    assert "tokenizer.json, as transformers reads it: " in told
    assert "no artifact was written\nto write it anyway, and a report on it:\n" in told
    assert list(out.parent.iterdir()) == []


def test_what_the_export_refuses_is_refused_by_inspect_in_the_same_words(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "tokenizer: 4 parity checks passed\n" in output(capsys, "inspect", chat)
    path = chat / "tokenizer_config.json"
    settings = json.loads(path.read_bytes())
    path.write_text(json.dumps({**settings, "tokenizer_class": "Qwen2Tokenizer"}))
    assert cli.main(["inspect", str(chat)]) == status.EXIT_FAILED
    told = capsys.readouterr()
    assert "can be exported" not in told.out
    assert cli.main(["export", str(chat)]) == status.EXIT_FAILED
    by_export = capsys.readouterr().err
    assert by_export.partition("\nto write it anyway")[0] == told.err.rstrip()
    assert f"{chat / 'tokenizer.json'}: tokens of " in told.err

    assert cli.main(["inspect", str(chat), "--json"]) == status.EXIT_FAILED
    refused = json.loads(capsys.readouterr().out)["refused"]
    assert refused["error"] == "ParityError"
    assert refused["message"] in told.err
    assert "can be exported" in output(capsys, "inspect", chat, "--no-validate")


def test_inspect_says_that_transformers_is_not_installed(
    chat: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readers, "_is_installed", lambda: False)
    assert (
        "tokenizer: 3 parity checks passed; tokenizer.json: transformers is not installed, so its "
        "tokens were not compared\n"
    ) in output(capsys, "inspect", chat)


def test_no_process_is_started_where_transformers_reads_nothing(
    tiny_checkpoint: Callable[..., Path],
    as_gguf: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checked_files, "ask_module", lambda *_, **__: pytest.fail("a process"))
    checkpoint = Checkpoint.open(as_gguf(tiny_checkpoint()))
    vocabulary = read_vocabulary(checkpoint)
    write_tokenizer(checkpoint, tmp_path, vocabulary)
    assert not any(
        one.failures for one in check_files(tmp_path, vocabulary, checkpoint).found.checks
    )


def test_metadata_of_a_gguf_file_is_read_twice_to_inspect_it(
    tiny_checkpoint: Callable[..., Path],
    as_gguf: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = []
    own = parts.read_gguf
    monkeypatch.setattr(parts, "read_gguf", lambda file: read.append(file) or own(file))
    found = output(capsys, "inspect", as_gguf(tiny_checkpoint()), "--quant", "fp32")
    assert "tokenizer: 3 parity checks passed\n" in found
    assert len(read) == 2  # for the plan, and for the checks


def test_a_file_that_was_written_wrong_stops_the_export_before_tracing(
    chat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def spoilt(checkpoint: Checkpoint, folder: Path, vocabulary: Vocabulary) -> str:
        note = write_tokenizer(checkpoint, folder, vocabulary)
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        return note

    monkeypatch.setattr(build, "write_tokenizer", spoilt)
    monkeypatch.setattr(build, "trace_in_subprocess", lambda *_: pytest.fail("traced"))
    out = tmp_path / "out"
    assert cli.main(["export", str(chat), "--out", str(out)]) == status.EXIT_FAILED
    assert "chat templates: " in capsys.readouterr().err
    assert not out.exists()


def test_an_export_checks_its_tokenizer_once_and_reports_it(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "check_tokenizer", lambda *_: pytest.fail("checked again"))
    out = tmp_path / "out"
    output(capsys, "export", chat, "--quant", "fp32", "--out", out)
    report = json.loads((out / "parity" / "report.json").read_bytes())
    checkpoint = Checkpoint.open(chat)
    expected = check_tokenizer(out, read_vocabulary(checkpoint), checkpoint).checks
    named = {check["name"]: check["figures"] for check in report["checks"]}
    assert {check.name: check.figures for check in expected}.items() <= named.items()


def test_checks_hold_for_the_same_files_and_no_others(chat: Path, tmp_path: Path) -> None:
    checkpoint, folder = Checkpoint.open(chat), tmp_path / "files"
    folder.mkdir()
    vocabulary = read_vocabulary(checkpoint)
    write_tokenizer(checkpoint, folder, vocabulary)
    checked = check_files(folder, vocabulary, checkpoint)
    assert checked.found == check_tokenizer(folder, vocabulary, checkpoint)
    again = shutil.copytree(folder, tmp_path / "again")
    assert checked.fits(again, vocabulary)
    (again / "config.json").write_text("{}")  # no tokenizer file
    assert checked.fits(again, vocabulary)
    (again / "additional_chat_templates").mkdir()
    (again / "additional_chat_templates" / "x.jinja").write_text("{{ x }}")
    assert not checked.fits(again, vocabulary)
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"<|im_end|>", b"<|im_bnd|>"))
    assert not checked.fits(folder, vocabulary)


def test_what_the_process_refuses_and_how_it_ends_is_told(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(chat)
    vocabulary = read_vocabulary(checkpoint)
    with pytest.raises(ContractError, match="tokenizer.json: missing"):
        check_files(tmp_path, vocabulary, checkpoint)
    write_tokenizer(checkpoint, tmp_path, vocabulary)
    path = chat / "tokenizer_config.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match="was replaced or written to between two readings"):
        check_files(tmp_path, vocabulary, checkpoint)
    monkeypatch.setattr(ask_module, "command_of", lambda _: ["sh", "-c", "kill -9 $$"])
    with pytest.raises(TraceError, match="was ended by signal 9, expected it to finish"):
        check_files(tmp_path, vocabulary, checkpoint)
    monkeypatch.setattr(ask_module, "command_of", lambda _: ["sh", "-c", "echo no >&2; exit 1"])
    with pytest.raises(TraceError, match="ended with status 1, expected 0; .* this: no$"):
        check_files(tmp_path, vocabulary, checkpoint)
