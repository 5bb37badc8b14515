"""Does an export in int8-dynamic calibrate, smooth, and answer alike however it is fed?"""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tramontane.cli import main as cli
from tramontane.console import status
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.graphs.lint.rules import lint
from tramontane.runtime.contract import DATA_FILE, MODEL_FILE
from tramontane.runtime.errors import ConfigError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.session import Session
from tramontane.validate.graph_under_test import open_graph_under_test
from tramontane.validate.probe import matrix_of

Write = Callable[..., Path]
LAYERS = 2


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Write) -> Path:
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifacts") / "tiny"
    export_checkpoint(checkpoint, out, ExportOptions(quant="int8-dynamic", target="ort"))
    return out


def test_each_layer_multiplies_bytes_and_the_ends_are_those_of_int8(artifact: Path) -> None:
    nodes = collections.Counter(
        node.op_type
        for node in onnx.load(artifact / MODEL_FILE, load_external_data=False).graph.node
    )
    assert (
        nodes["MatMulIntegerToFloat"] == 8 * LAYERS
    )  # query-key-value, output, gate, up, 4 parts
    assert nodes["Round"] == 4 * LAYERS  # gate and up read the same bytes
    assert nodes["MatMulNBits"] == nodes["GatherBlockQuantized"] == 1
    assert nodes["MatMul"] == 0


def test_manifest_describes_every_part_and_the_linter_finds_nothing(artifact: Path) -> None:
    entries = {entry["name"]: entry for entry in read_manifest(artifact).tensors}
    matrix = "layers.1.mlp.down.weight"
    ranks = {one["matrix"]: one["rank_by_harm"] for one in entries.values() if "matrix" in one}
    assert sorted(ranks.values()) == list(range(1, len(ranks) + 1))
    for part in range(4):
        codes = entries[f"{matrix}.part_{part}.codes"]
        error = codes.pop("error")
        assert 0.003 < error < 0.01  # of steps of the greatest of 32 by 127: about 0.005
        assert codes == {
            "name": codes["name"],
            "shape": [64, 32],
            "bits": 8,
            "block": 32,
            "matrix": matrix,
            "method": "smooth_then_round",
            "scales": "float32",
            "why_differs": "blocks of 32 instead of 128: the kernel takes one scale for a row, here "
            "in 4 parts for its outliers",
            "rank_by_harm": ranks[matrix],
        }
    gate = entries["layers.0.mlp.gate.weight.part_0.codes"]
    assert (gate["shape"], gate["block"]) == ([128, 64], 64)
    assert all("why_float" in entry for entry in entries.values() if entry["bits"] == 32)
    assert lint(artifact / MODEL_FILE) == []


def test_chunks_and_steps_give_the_logits_of_one_shot_across_evictions(artifact: Path) -> None:
    tokens = list(range(40, 100))  # the window is 8, and the cache has some rows more
    session = Session.load(artifact)
    whole = session.prefill(tokens, chunk=len(tokens)).copy()
    for sizes in ([7, 23, 30], [25, *[1] * 35]):
        session.reset()
        ends = np.cumsum(sizes)
        for start, end in zip(ends - sizes, ends, strict=True):
            last = session.prefill(tokens[start:end]).copy()
        # The attention sums in another order, and what is rounded after it may fall elsewhere.
        np.testing.assert_allclose(last, whole, atol=2e-2)


def test_loud_channel_is_smoothed_into_the_matrices_that_read_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    loud = tmp_path / "loud"
    loud.mkdir()
    for name in ("config.json", "tokenizer.model"):
        (loud / name).write_bytes((checkpoint / name).read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.layers.1.input_layernorm.weight"][3] *= 256
    for kind in "qkv":
        tensors[f"model.layers.1.self_attn.{kind}_proj.weight"][:, 3] /= 256
    save_file(tensors, loud / "model.safetensors")
    export_checkpoint(loud, tmp_path / "out", ExportOptions(quant="int8-dynamic", target="ort"))
    tested = open_graph_under_test(tmp_path / "out", Checkpoint.open(loud).config)
    linear = tested.graph.tensor_roles(LAYERS).layers[1]["query_key_value"]
    found = matrix_of(tested, linear, 64)
    as_published = np.concatenate(
        [tensors[f"model.layers.1.self_attn.{kind}_proj.weight"].numpy() for kind in "qkv"]
    )
    ratio = np.linalg.norm(found[:, 3]) / np.linalg.norm(as_published[:, 3])
    assert 64 <= ratio <= 1024


def test_the_same_checkpoint_gives_the_same_bytes(
    checkpoint: Path, artifact: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    export_checkpoint(checkpoint, again, ExportOptions(quant="int8-dynamic", target="ort"))
    for name in (MODEL_FILE, DATA_FILE, "manifest.json"):
        assert (again / name).read_bytes() == (artifact / name).read_bytes()


def test_text_that_is_not_there_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path
) -> None:
    options = ExportOptions(
        quant="int8-dynamic", target="ort", calibration_texts=(tmp_path / "nowhere.txt",)
    )
    with pytest.raises(ConfigError, match="--calibration-text .*nowhere.txt"):
        export_checkpoint(checkpoint, tmp_path / "out", options)
    assert not list(tmp_path.iterdir())


def test_text_that_nothing_is_calibrated_on_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(quant="int8", target="ort", calibration_texts=(tmp_path / "text.txt",))
    with pytest.raises(ConfigError, match="--quant int8 --kv float32 is not calibrated, expected"):
        export_checkpoint(checkpoint, tmp_path / "out", options)


def test_one_text_for_both_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a word and another\n" * 30)
    arguments = [
        "export",
        str(checkpoint),
        "--quant",
        "int8-dynamic",
        "--out",
        str(tmp_path / "o"),
    ]
    other = tmp_path / "other.txt"
    other.write_text("another text\n" * 30)
    arguments += ["--text", str(text), "--calibration-text", str(other)]
    arguments += ["--calibration-text", str(tmp_path / "." / "text.txt")]
    assert cli.main(arguments) == status.EXIT_BAD_INPUT
    assert "text.txt: is --text too, expected two texts" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
