"""Does ``inspect`` plan before it reads, and do sizes on the command line mean what they say?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tramontane.cli import main as cli
from tramontane.export import build
from tramontane.export.formats import checkpoint as checkpoint_module
from tramontane.graphs.quantization.recipe import QUANTS
from tramontane.runtime.contract import DATA_FILE
from tramontane.runtime.manifest import read_manifest


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == cli.EXIT_BAD_INPUT
    return capsys.readouterr().err


def test_a_known_geometry_is_planned_from_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "inspect", "mistral-7b-v0.1")
    assert "parameters            7 241 732 096\n" in found
    assert "window                4096\n" in found
    assert all(quant in found for quant in QUANTS)


def test_a_name_that_is_nothing_is_refused_with_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "mistral-8b"
    message = refusal(capsys, "inspect", missing)
    assert f"{missing}: neither a folder or file nor a known model" in message
    assert "mistral-7b-v0.1, mistral-7b-v0.2" in message


def test_a_window_is_planned_for_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = json.loads(said(capsys, "inspect", "llama-2-7b", "--window", 1024, "--json"))
    assert found["sliding_window"] == 1024
    memory = found["plans"]["int8"]["memory"]
    assert memory["cache_bytes_at_most"] == (1024 + 128) * memory["cache_bytes_per_token"]


def test_a_config_alone_is_planned(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stdlib_5m / "config.json", tmp_path)
    assert cli.main(["inspect", str(tmp_path), "--json"]) == cli.EXIT_BAD_INPUT
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["num_parameters"] == 5_573_888
    assert set(found["plans"]) == set(QUANTS)
    assert found["refused"]["error"] == "CheckpointError"
    assert f"{tmp_path}: holds no weights" in found["refused"]["message"] in told.err
    assert json.loads(said(capsys, "inspect", stdlib_5m, "--json"))["refused"] is None


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
        (drop_tokenizer, [], "holds no tokenizer.model"),
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

    monkeypatch.setattr(build, "trace_apart", trace)
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "model"
    shutil.copytree(stdlib_5m, checkpoint)
    if spoil is not None:
        spoil(checkpoint)
    by_export = refusal(capsys, "export", checkpoint, *options)
    assert message in by_export
    assert cli.main(["inspect", str(checkpoint), *options]) == cli.EXIT_BAD_INPUT
    told = capsys.readouterr()
    assert told.err == by_export
    if spoil is not None:
        assert "RAM to export" in told.out
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


def test_inspect_says_why_there_is_no_plan_for_a_quant(
    capsys: pytest.CaptureFixture[str], stdlib_5m: Path, tmp_path: Path
) -> None:
    config = json.loads((stdlib_5m / "config.json").read_bytes()) | {"intermediate_size": 767}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert cli.main(["inspect", str(tmp_path)]) == cli.EXIT_BAD_INPUT  # there are no weights
    assert "--quant int4: rows of 767 weights do not" in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path), "--json"]) == cli.EXIT_BAD_INPUT
    plans = json.loads(capsys.readouterr().out.splitlines()[0])["plans"]
    assert set(plans) == set(QUANTS) - {"int4"}


def test_the_plan_is_printed_before_a_fault_in_the_weights_is_told(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stdlib_5m / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert cli.main(["inspect", str(tmp_path)]) == cli.EXIT_BAD_INPUT
    told = capsys.readouterr()
    assert "parameters            5 573 888" in told.out
    assert f"{tmp_path / 'model.safetensors'}" in told.err


def test_no_weight_is_read_to_inspect_a_checkpoint(
    stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(checkpoint_module.Checkpoint, "read", read)
    found = said(capsys, "inspect", stdlib_5m)
    assert "weights: Hugging Face, 57 tensors" in found
    assert "export: nothing stops int8 for ort" in found


def test_an_export_keeps_what_inspect_planned(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = json.loads(said(capsys, "inspect", stdlib_5m, "--json"))["plans"]
    out = tmp_path / "out"
    said(capsys, "export", stdlib_5m, "--quant", "int8", "--out", out, "--no-validate")
    memory = read_manifest(out).memory
    assert memory.resident_bytes == plans["int8"]["memory"]["resident_bytes"]
    assert memory.weights_bytes == (out / DATA_FILE).stat().st_size
    assert "estimated RAM to run" in said(capsys, "inspect", out)
    message = refusal(capsys, "run", out, "--max-memory", "30MB")
    assert f"{out}: needs" in message
    assert "allowed are 30.00 MB" in message
    assert said(capsys, "run", out, "--prompt", "x", "--max-memory", "1GiB").startswith("x")


@pytest.mark.parametrize("flag", ["--max-memory", "--max-shard"])
def test_what_is_no_size_is_refused_by_its_flag(
    stdlib_5m: Path, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = {"--max-memory": "run", "--max-shard": "export"}[flag]
    message = refusal(capsys, command, stdlib_5m, flag, "6 parsecs", "--json")
    assert f"{flag} 6 parsecs: not a size" in message


def test_weights_are_cut_into_the_files_that_were_asked_for(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    said(capsys, "export", stdlib_5m, "--out", out, "--no-validate", "--max-shard", "2MB")
    sizes = [path.stat().st_size for path in sorted(out.glob(f"{DATA_FILE}*"))]
    assert len(sizes) > 2
    assert max(sizes) <= 2_000_000
    assert said(capsys, "run", out, "--prompt", "x", "--verify").startswith("x")
    message = refusal(
        capsys, "export", stdlib_5m, "--out", tmp_path / "b", "--no-validate", "--max-shard", "1kB"
    )
    assert "a weight is never cut" in message
    assert list(tmp_path.iterdir()) == [out]


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
    assert "weights: " in said(capsys, "inspect", stdlib_5m, "--no-validate")
    assert (
        "the reference takes 737.02 MB of memory, the artifact 90.47 MB and their logits 25.17 MB, "
        "112.00 MB are free" in message
    )
    assert "--no-validate" in message
    assert list(tmp_path.iterdir()) == []
