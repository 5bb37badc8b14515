"""Tests of what ``export`` refuses before any work, and ``inspect`` with the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tramontane.cli import main as cli
from tramontane.console import status
from tramontane.export import build

from .calls import output, refusal


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def drop_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"no pieces")


def shrink_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 2000}))


def widen_a_layer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 800}))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (drop_weights, [], "holds no weights"),
        (drop_tokenizer, [], "holds no tokenizer.json and no tokenizer.model"),
        (spoil_tokenizer, [], "tokenizer.model: not a SentencePiece model"),
        (shrink_vocabulary, [], "has shape (2048, 256)"),
        (widen_a_layer, [], "model.safetensors: model.layers.0.mlp"),
        (None, ["--window", "4097"], "--window 4097: expected 1 to 4096"),
        (None, ["--target", "web", "--quant", "int4"], "--target web --quant int4"),
        (None, ["--block", "48"], "--block 48"),
        (None, ["--kv", "int8", "--target", "portable"], "--kv int8"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_inspect_refuses_what_export_refuses_and_in_the_same_words(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None] | None,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def trace(*_: object) -> None:
        raise AssertionError("it was traced")

    monkeypatch.setattr(build, "trace_in_subprocess", trace)
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "model"
    shutil.copytree(stdlib_5m, checkpoint)
    if spoil is not None:
        spoil(checkpoint)
    by_export = refusal(capsys, "export", checkpoint, *options)
    assert message in by_export
    assert cli.main(["inspect", str(checkpoint), *options]) == status.EXIT_BAD_INPUT
    told = capsys.readouterr()
    assert told.err == by_export
    if spoil is not None:
        assert "to export" in told.out
        assert "weights: " not in told.out
    assert not (tmp_path / "artifacts").exists()


def test_inspect_refuses_a_full_disk_and_a_folder_of_something_else_as_export_does(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
        message = refusal(capsys, "inspect", stdlib_5m)
        assert "0 B free, the artifact needs" in message
        assert refusal(capsys, "export", stdlib_5m) == message
    thesis = tmp_path / "artifacts" / "stdlib-5m-int8-ort" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.touch()
    message = refusal(capsys, "inspect", stdlib_5m)
    assert "exists and is not an artifact" in message
    assert refusal(capsys, "export", stdlib_5m) == message
    assert thesis.is_file()


def test_a_head_size_without_kernels_is_refused_by_inspect_and_before_an_export_traces(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(head_dim=20)
    for command in (["inspect"], ["export", "--out", tmp_path / "a", "--no-validate"]):
        message = refusal(capsys, *command, folder)
        assert "head_dim is 20, expected a multiple of 8" in message
        assert "take --target portable, which runs any head size" in message
        assert "tracing" not in message
    assert not (tmp_path / "a").exists()


def test_a_reference_that_memory_cannot_hold_is_refused_before_anything_is_written(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Memory:
        available = 112_000_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    message = refusal(capsys, "export", stdlib_5m, "--out", tmp_path / "out")
    assert refusal(capsys, "inspect", stdlib_5m) == message
    assert "weights: " in output(capsys, "inspect", stdlib_5m, "--no-validate")
    assert (
        "the reference takes 737.02 MB of memory, the artifact 90.47 MB and their logits 25.17 MB, "
        "112.00 MB are free" in message
    )
    assert "--no-validate" in message
    assert list(tmp_path.iterdir()) == []
