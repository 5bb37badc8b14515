"""Is each format scored on its own weights, and compared with the model that it was made of?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.bench.peers import llama_runtime
from tramontane.bench.quality import __main__ as quality
from tramontane.bench.quality import importance, llama_cpp, measure, ours, weights_alone
from tramontane.bench.quality.rows import LLAMA_CPP, OURS
from tramontane.environments.errors import Absent
from tramontane.export.calibrate.tokens import TEXT, calibration_tokens
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.tensor_names import EMBEDDING
from tramontane.export.options import options_named
from tramontane.export.write_gguf import write_gguf
from tramontane.runtime.errors import ContractError, ParityError
from tramontane.validate.graph_under_test import open_graph_under_test
from tramontane.validate.reference.kernel_rounding import KernelRounding
from tramontane.validate.reference.reference import Reference
from tramontane.validate.reference.reference_cache import Store
from tramontane.validate.reference.weights import ArtifactWeights


@pytest.fixture
def no_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    def runner(_: str) -> None:
        raise Absent("no compiler")

    monkeypatch.setattr(llama_runtime, "runner", runner)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def mean(values):\n    return sum(values) / len(values)\n" * 20)
    return path


def run(model: Path, folder: Path, *options: str) -> dict[str, Any]:
    out = folder / "quality-m.json"
    words = [str(model), "--work", str(folder / "work"), "--out", str(out), *options]
    assert quality.main(words) == 0
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


@pytest.mark.slow
def test_every_recipe_of_a_tiny_model_is_measured_and_llama_cpp_is_not_installed(
    tiny_checkpoint: Callable[..., Path], no_llama: None, text: Path, tmp_path: Path
) -> None:
    report = run(tiny_checkpoint(), tmp_path, "--text", str(text), "--positions", "64")
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == measure.format_names()
    assert report["text"] == {"source": "text.txt", "positions": 64, "sequences": 8, "length": 8}
    mine = [row for row in rows.values() if row["family"] == OURS]
    assert all(row["positions"] == 64 and not row["why"] for row in mine)
    kl = {row["name"].removeprefix(f"{OURS} "): row["mean_kl"] for row in mine}
    assert 0 <= kl["fp32"] < 1e-8 < kl["int8"] < kl["int4-rtn"]
    alone = {row["name"].removeprefix(f"{OURS} "): row["weights_kl"] for row in mine}
    assert 0 <= alone["fp32"] < 1e-8 < alone["int8"] < 0.9 * kl["int8"]  # activations are rounded
    assert kl["int8"] < alone["int4-rtn"] == pytest.approx(kl["int4-rtn"], rel=0.5)
    assert all(
        row["why"] == "not installed: no compiler"
        for row in rows.values()
        if row["family"] == LLAMA_CPP
    )
    for suffix in (".svg", ".md"):
        assert (tmp_path / "quality-m.json").with_suffix(suffix).is_file()


def test_a_runtime_that_computes_another_model_stops_the_measurement(
    tiny_checkpoint: Callable[..., Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def score(artifact: Path, sequences: np.ndarray, logits: np.ndarray, *, threads: int) -> None:
        logits[:] = np.random.default_rng(0).standard_normal(logits.shape)

    monkeypatch.setattr(ours, "score", score)
    with pytest.raises(ParityError, match="tramontane fp32: mean KL .* expected at most 1e-03"):
        options = ("--text", str(text), "--positions", "8", "--only", "fp32")
        run(tiny_checkpoint(), tmp_path, *options)


def test_weights_alone_are_those_of_the_file_and_nothing_else_is_rounded(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path, sequences = tmp_path / "model.gguf", np.arange(24).reshape(2, 12)
    with Checkpoint.open(tiny_checkpoint()) as checkpoint:
        store = Store(tmp_path / "store")
        reference = Reference(
            checkpoint.config, checkpoint, store=store, track=lambda items, _: items
        )
        expected = [run.logits for run in reference.runs(list(sequences))]
        write_gguf(checkpoint, path)
        np.testing.assert_allclose(
            weights_alone.of_gguf(path, reference, sequences), expected, atol=1e-4
        )
        artifact = ours.make_artifact(checkpoint, options_named("int8-ort"), tmp_path / "int8")
        tested = open_graph_under_test(artifact, checkpoint.config)
        roles = tested.graph.tensor_roles(checkpoint.config.num_hidden_layers)
        rounding = KernelRounding(tested)
        weights = ArtifactWeights(
            tested=tested, roles=roles, checkpoint=checkpoint, rounding=rounding
        )
        assert weights.head().rounding is not None
        own = weights_alone.FloatActivations(weights=weights)
        assert own.head().rounding is None
        assert all(each.rounding is None for each in own.layer(1).products.values())
        np.testing.assert_array_equal(own.head().matrix, weights.head().matrix)


def test_a_word_that_no_format_contains_is_refused() -> None:
    assert measure.chosen(["Q4_0", "fp32"])[0] == "tramontane fp32"
    with pytest.raises(ContractError, match=r"--only Q9: no format, expected parts of tramontane"):
        measure.chosen(["Q9"])


def test_every_recipe_is_measured_and_those_with_open_blocks_have_small_ones_too() -> None:
    assert {"fp32", "int8", "int8 block 32", "int4", "int4 block 32", "int8-dynamic"} <= set(
        ours.recipes()
    )
    assert not {"fp32 block 32", "int8-dynamic block 32"} & set(ours.recipes())


@pytest.mark.slow
def test_the_weights_of_an_artifact_are_its_files(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    found = ours.weights_of(artifact)
    files = [path for path in (artifact / "onnx").iterdir() if path.suffix != ".onnx"]
    assert found.weights_bytes == sum(path.stat().st_size for path in files)
    assert found.types == "int8 x 32"


def test_matrices_whose_columns_are_no_multiple_of_the_block_are_counted(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    with Checkpoint.open(tiny_checkpoint()) as checkpoint:
        write_gguf(checkpoint, path)
        parameters = checkpoint.config.num_parameters
    large, small = (
        next(one for one in llama_cpp.FORMATS if one.kind == kind) for kind in ("Q4_K_M", "Q4_0")
    )
    found = llama_cpp.weights_of(path, large)
    assert found.fallen_back == 16  # 64 and 128 columns
    assert llama_cpp.weights_of(path, small).fallen_back == 0
    assert 4 * parameters <= found.weights_bytes < 4 * parameters + 1024  # padding
    assert found.types == "F32 x 16"


def test_the_importance_of_a_column_is_the_mean_square_of_its_inputs(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "importance.npz"
    with Checkpoint.open(tiny_checkpoint()) as checkpoint:
        config = checkpoint.config
        store = Store(tmp_path / "store")
        reference = Reference(config, checkpoint, store=store, track=lambda items, _: items)
        importance.write_importance(checkpoint, reference, path)
        tokens = calibration_tokens(
            config, checkpoint, (TEXT.read_text("utf-8"),), most=16384
        ).text
        x = checkpoint.read(EMBEDDING)[np.concatenate(tokens)].astype(np.float64)
        norm = checkpoint.read("layers.0.attention_norm.weight")
    x *= norm / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + config.rms_norm_eps)
    with np.load(path) as found:
        assert len(found.files) == 7 * config.num_hidden_layers  # neither embedding nor head
        np.testing.assert_allclose(found["blk.0.attn_q.weight"], np.square(x).mean(0), rtol=1e-4)
        np.testing.assert_array_equal(found["blk.0.attn_q.weight"], found["blk.0.attn_v.weight"])
        assert found["blk.1.ffn_down.weight"].shape == (config.intermediate_size,)
