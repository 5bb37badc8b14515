"""Is ``optimum-cli export tramontane`` there, and does it do and refuse what ours does?"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from optimum.commands import optimum_cli
from tramontane.cli import main as cli
from tramontane.cli.commands import export
from tramontane.console import status
from tramontane.export.cache_choice import WINDOWED, geometry_of
from tramontane.export.formats.huggingface import read_config_json
from tramontane.interop.optimum_config import describe, obstacles
from tramontane.runtime.errors import ParityError

EXPORT = ("export", "tramontane", "--model")


def optimum(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The exit status of optimum's command, run in this process as its script does."""
    monkeypatch.setattr(sys, "argv", ["optimum-cli", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        sys.exit(optimum_cli.main())
    return stop.value.code or 0


def test_the_installed_command_lists_it_without_loading_what_is_heavy() -> None:
    script = Path(sysconfig.get_path("scripts")) / "optimum-cli"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "export", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tramontane" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tramontane.cli.commands.export" in loaded
    stages = {
        f"tramontane.{name}"  # the lists of formats and targets in graphs need no package
        for name in (
            "export.build",
            "graphs.pipeline",
            "graphs.writing",
            "validate",
            "interop",
            "bench",
        )
    }
    assert loaded.isdisjoint({"torch", "onnx", "onnxruntime", "numpy", *stages})


def test_its_help_has_an_example_and_the_options_of_our_own_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert optimum(monkeypatch, "export", "tramontane", "--help") == 0
    theirs = capsys.readouterr().out
    assert "optimum-cli export tramontane --model models/stdlib-5m" in theirs
    with pytest.raises(SystemExit):
        cli.main(["export", "--help"])
    ours = {word for word in capsys.readouterr().out.split() if word.startswith("--")}
    assert ours - set(theirs.split()) == {"--out", "--print-out", "--json"}  # --out is OUT


def test_its_artifact_is_that_of_our_own_command(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, theirs, ours = tiny_checkpoint(), tmp_path / "theirs", tmp_path / "ours"
    options = ("--quant", "int4", "--block", "32", "--no-validate")
    assert optimum(monkeypatch, *EXPORT, checkpoint, *options, theirs) == 0
    told = capsys.readouterr()
    assert "mistral, 2 layers of 4 heads over 2, hidden 64, vocabulary 2048" in told.err
    assert f"ORTModelForCausalLM will not run {theirs}: its past starts without" in told.err
    assert f"wrote {theirs}" in told.out
    assert cli.main(["export", str(checkpoint), *options, "--out", str(ours)]) == 0
    manifests = [json.loads((out / "manifest.json").read_bytes()) for out in (theirs, ours)]
    assert manifests[0] == manifests[1]


def test_what_is_not_here_is_refused_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        optimum(monkeypatch, *EXPORT, "mistralai/Mistral-7B-v0.1", "out") == status.EXIT_BAD_INPUT
    )
    message = capsys.readouterr().err
    assert message.startswith("tramontane: mistralai/Mistral-7B-v0.1: no such folder")
    assert "hf download mistralai/Mistral-7B-v0.1 --local-dir models/Mistral-7B-v0.1" in message
    assert optimum(monkeypatch, *EXPORT, tmp_path / "missing", "out") == status.EXIT_BAD_INPUT
    assert f"{tmp_path / 'missing'}: no such folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_of_another_kind_and_a_bad_window_are_refused_by_name(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    assert optimum(monkeypatch, *EXPORT, tmp_path, out) == status.EXIT_BAD_INPUT
    assert "GPT2LMHeadModel" in capsys.readouterr().err
    assert optimum(monkeypatch, *EXPORT, stdlib_5m, "--window", 5000, out) == status.EXIT_BAD_INPUT
    assert "tramontane: --window 5000: expected 1 to 4096" in capsys.readouterr().err
    assert not out.exists()


def test_parity_that_failed_exits_with_1(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise ParityError("logits: 3 apart, expected at most 1")

    monkeypatch.setattr(export, "main", fail)
    assert optimum(monkeypatch, *EXPORT, stdlib_5m, tmp_path / "out") == status.EXIT_FAILED
    assert "tramontane: logits: 3 apart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architecture", "changes", "hindrances"),
    [
        ("MistralForCausalLM", {}, ["the artifact's has 24; --cache growing"]),
        ("LlamaForCausalLM", {}, []),
        ("LlamaForCausalLM", {"head_dim": 32}, ["num_attention_heads (16)"]),
        ("Ministral3ForCausalLM", {}, ["does not support model type 'ministral3'"]),
    ],
)
def test_what_keeps_optimums_runtime_from_an_artifact_is_told(
    tiny_checkpoint: Callable[..., Path],
    architecture: str,
    changes: dict[str, int],
    hindrances: list[str],
) -> None:
    config = read_config_json(tiny_checkpoint(architecture, **changes))
    found = list(obstacles(config, geometry_of(config, WINDOWED)))
    assert len(found) == len(hindrances)
    assert all(hindrance in told for hindrance, told in zip(hindrances, found, strict=True))


def test_every_architecture_of_ours_is_one_that_optimum_reads(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    for architecture in ("MistralForCausalLM", "LlamaForCausalLM", "SmolLM3ForCausalLM"):
        config = read_config_json(tiny_checkpoint(architecture, pad_token_id=0))
        geometry = geometry_of(config, WINDOWED)
        assert f"{geometry.num_layers} layers" in describe(config)
        assert f"over {geometry.num_key_value_heads}," in describe(config)


def test_model_type_that_optimum_does_not_read_is_said_and_exported_all_the_same(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(export, "main", lambda _: 0)
    checkpoint = tiny_checkpoint("Ministral3ForCausalLM")
    assert optimum(monkeypatch, *EXPORT, checkpoint, tmp_path / "out") == 0
    told = capsys.readouterr().err
    assert "ministral3, a model type that optimum does not read" in told
    assert "ORTModelForCausalLM will not run" in told
