"""Tests of ``tramontane inspect``: it plans before it reads, and describes what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.console import status
from tramontane.export.formats import checkpoint as checkpoint_module
from tramontane.graphs.quantization.recipes.all_recipes import recipe_names

from ..calls import output, refusal


@pytest.mark.slow
def test_inspect_tells_what_an_artifact_and_a_checkpoint_are(
    artifact: Path, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["window"] == 64
    assert cli.main(["inspect", str(stdlib_5m), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_key_value_heads"] == 2


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.model"])
def test_a_changed_byte_is_told_by_inspect_and_by_verify(
    artifact: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    for arguments in (["inspect", copy], ["run", copy, "--verify", "--prompt", "x"]):
        message = refusal(capsys, *arguments)
        assert f"{copy / name}: {len(content)} bytes with sha256" in message
        assert "the manifest promises" in message


def test_a_known_geometry_is_planned_from_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = output(capsys, "inspect", "mistral-7b-v0.1")
    assert "parameters            7 241 732 096\n" in found
    assert "window                4096\n" in found
    assert all(quant in found for quant in recipe_names())


def test_bits_per_weight_stand_beside_each_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys, "inspect", "smollm2-135m").splitlines()
    (row,) = (line for line in lines if "int8 " in line)
    assert "142.20 MB" in row
    assert "8.46" in row.split()


def test_a_name_that_is_nothing_is_refused_with_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "mistral-8b"
    message = refusal(capsys, "inspect", missing)
    assert f"{missing}: neither a folder or file nor a known model" in message
    assert "mistral-7b-v0.1, mistral-7b-v0.2" in message


def test_scaled_rope_is_named(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((stdlib_5m / "config.json").read_bytes())
    del config["rope_parameters"]
    config["rope_scaling"] = {"type": "linear", "factor": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    cli.main(["inspect", str(tmp_path)])  # there are no weights
    assert "rope theta            10000, linear scaling by 4\n" in capsys.readouterr().out


def test_a_window_is_planned_for_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = json.loads(output(capsys, "inspect", "llama-2-7b", "--window", 1024, "--json"))
    assert found["sliding_window"] == 1024
    memory = found["plans"]["int8"]["memory"]
    assert memory["cache_bytes_at_most"] == (1024 + 128) * memory["cache_bytes_per_token"]


def test_a_config_alone_is_planned(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stdlib_5m / "config.json", tmp_path)
    assert cli.main(["inspect", str(tmp_path), "--json"]) == status.EXIT_BAD_INPUT
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["num_parameters"] == 5_573_888
    assert set(found["plans"]) == set(recipe_names())
    assert found["refused"]["error"] == "CheckpointError"
    assert f"{tmp_path}: holds no weights" in found["refused"]["message"] in told.err
    assert json.loads(output(capsys, "inspect", stdlib_5m, "--json"))["refused"] is None


def test_inspect_says_why_there_is_no_plan_for_a_quant(
    capsys: pytest.CaptureFixture[str], stdlib_5m: Path, tmp_path: Path
) -> None:
    config = json.loads((stdlib_5m / "config.json").read_bytes()) | {"intermediate_size": 767}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert cli.main(["inspect", str(tmp_path)]) == status.EXIT_BAD_INPUT  # there are no weights
    assert "--quant int4: rows of 767 weights do not" in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path), "--json"]) == status.EXIT_BAD_INPUT
    plans = json.loads(capsys.readouterr().out.splitlines()[0])["plans"]
    assert set(plans) == set(recipe_names()) - {"int4", "int4-small", "int4-rtn", "int4-rtn-small"}


def test_the_plan_is_printed_before_a_fault_in_the_weights_is_told(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stdlib_5m / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert cli.main(["inspect", str(tmp_path)]) == status.EXIT_BAD_INPUT
    told = capsys.readouterr()
    assert "parameters            5 573 888" in told.out
    assert f"{tmp_path / 'model.safetensors'}" in told.err


def test_no_weight_is_read_to_inspect_a_checkpoint(
    stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(checkpoint_module.Checkpoint, "read", read)
    found = output(capsys, "inspect", stdlib_5m)
    assert "weights: Hugging Face, 57 tensors" in found
    assert "export: int8 for ort can be exported" in found


def test_a_template_that_an_export_refuses_is_refused(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(stdlib_5m, tmp_path / "model")
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    message = refusal(capsys, "inspect", folder)
    assert f"{folder / 'chat_template.jinja'}: not UTF-8" in message
    assert refusal(capsys, "export", folder, "--out", tmp_path / "out") == message
