"""Is what is under test told apart: ours, another exporter's, and what is neither?"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.window_choice import adapted
from tramontane.runtime import Session
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.errors import ContractError
from tramontane.validate.graph_under_test import GraphUnderTest, open_graph_under_test

Artifact = Callable[[str], Path]


@pytest.fixture
def checkpoint(stdlib_5m: Path) -> Checkpoint:
    return Checkpoint.open(stdlib_5m)


def as_another(artifact: Path, folder: Path) -> Path:
    """The graph alone, with its weights, as other exporters leave it."""
    folder.mkdir()
    for file in artifact.glob("onnx/*"):
        shutil.copy(file, folder)
    return folder


def test_an_artifact_of_ours_brings_its_window_and_recipe(
    embedded_artifact: Artifact, checkpoint: Checkpoint
) -> None:
    unwindowed = dataclasses.replace(checkpoint.config, sliding_window=None)
    tested = open_graph_under_test(embedded_artifact("int8-ort"), unwindowed)
    assert (tested.config.sliding_window, tested.quant) == (64, "int8")
    assert (tested.layouts[0].rows, tested.weight_slack) == (80, 1.0)
    assert not tested.takes_ragged_batches


def test_a_graph_inside_an_artifact_is_the_artifact(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = embedded_artifact("int8-ort")
    for path in (folder, folder / "onnx" / "model.onnx"):
        tested = open_graph_under_test(path, checkpoint.config)
        assert (tested.manifest is not None, tested.name) == (True, folder.name)
    shutil.copytree(folder / "onnx", tmp_path / "other" / "onnx")
    shutil.copy(folder / "manifest.json", tmp_path)  # of something else
    for path in (tmp_path / "other", tmp_path / "other" / "onnx" / "model.onnx"):
        tested = open_graph_under_test(path, checkpoint.config)
        assert (tested.manifest, tested.name) == (None, "other")


def test_a_graph_with_a_fixed_cache_beside_a_checkpoint_without_window_asks_for_the_window(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    graph = as_another(embedded_artifact("int8-ort"), tmp_path / "graph") / "model.onnx"
    unwindowed = dataclasses.replace(checkpoint.config, sliding_window=None)
    with pytest.raises(ContractError, match="its cache has 80 rows, .* with --window"):
        open_graph_under_test(graph, unwindowed)
    tested = open_graph_under_test(graph, adapted(unwindowed, window=64))
    assert (tested.layouts[0].window, tested.layouts[0].rows) == (64, 80)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["int8-ort", "int4-rtn-ort", "fp32-portable", "int4-rtn-portable"]
)
def test_a_bare_graph_is_read_for_its_recipe_and_rows(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path, recipe: str
) -> None:
    folder = as_another(embedded_artifact(recipe), tmp_path / "graph")
    for path in (folder, folder / "model.onnx"):
        tested = open_graph_under_test(path, checkpoint.config)
        assert (tested.manifest, tested.quant) == (None, recipe.rpartition("-")[0])
        assert tested.layouts[0].rows == 80


def test_a_graph_without_the_driver_gives_the_logits_of_the_driver(
    embedded_artifact: Artifact, checkpoint: Checkpoint
) -> None:
    tested = open_graph_under_test(embedded_artifact("fp32-ort"), checkpoint.config)
    tokens = np.arange(5, 155)
    session = Session.load(tested.path.parent.parent)
    runner = tested.graph_runner()
    for piece in (tokens[:70], tokens[70:71], tokens[71:]):
        expected = session.prefill(piece.tolist(), all_logits=True)
        np.testing.assert_allclose(runner.feed(piece), expected, atol=1e-5)
    for ours, drivers in zip(runner.cache(), session.cache(), strict=True):
        np.testing.assert_allclose(ours[0], drivers[0], atol=1e-5)


def test_a_growing_cache_is_told_from_a_windowed_one(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from tramontane.export.build import (
        export_checkpoint,
    )
    from tramontane.export.options import (
        ExportOptions,
    )

    folder = tiny_checkpoint("LlamaForCausalLM")
    export_checkpoint(folder, tmp_path / "a", ExportOptions(quant="fp32", target="ort"))
    config = dataclasses.replace(Checkpoint.open(folder).config, sliding_window=8)
    tested = open_graph_under_test(as_another(tmp_path / "a", tmp_path / "graph"), config)
    assert (tested.layouts[0].rows, tested.layouts[0].window) == (None, None)
    assert tested.edges == (CacheLayout(window=8, rows=24),)  # where to look nevertheless


def test_a_reference_of_another_geometry_is_refused(
    embedded_artifact: Artifact, tiny_checkpoint: Callable[..., Path]
) -> None:
    config = Checkpoint.open(tiny_checkpoint()).config
    with pytest.raises(ContractError, match="name the checkpoint that it was exported from"):
        open_graph_under_test(embedded_artifact("int8-ort"), config)


def test_a_folder_without_a_graph_or_with_several_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match=r"holds neither manifest.json nor a graph"):
        open_graph_under_test(tmp_path, checkpoint.config)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ContractError, match=r"holds a.onnx, b.onnx; name the graph"):
        open_graph_under_test(tmp_path, checkpoint.config)


def test_what_is_no_graph_is_refused_by_its_name(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ContractError, match="model.onnx"):
        _ = open_graph_under_test(tmp_path, checkpoint.config).graph


def test_a_graph_with_an_unknown_input_or_too_few_layers_is_refused(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = as_another(embedded_artifact("int8-ort"), tmp_path / "graph")
    more = dataclasses.replace(checkpoint.config, num_hidden_layers=7)
    with pytest.raises(ContractError, match=r"has no past_key_values.6.key, .* 7 layers"):
        GraphUnderTest(folder / "model.onnx", more, None).graph_runner()
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1])
    )
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ContractError, match="input pixels is not known"):
        GraphUnderTest(folder / "model.onnx", checkpoint.config, None).graph_runner()


@pytest.mark.parametrize("pads_left", [False, True])
def test_what_a_kernel_refuses_while_it_runs_names_the_graph_and_what_it_was_fed(
    embedded_artifact: Artifact, checkpoint: Checkpoint, pads_left: bool
) -> None:
    tested = open_graph_under_test(embedded_artifact("fp32-ort"), checkpoint.config)
    runner = tested.graph_runner(batch_size=2)
    lengths = np.array([3, 5])
    with pytest.raises(ContractError) as refused:
        runner.run(np.ones((2, 5), np.int64), ["logits"], lengths=lengths, pads_left=pads_left)
    assert f"{tested.path}: onnxruntime stopped while it ran 2 x 5 new tokens" in str(
        refused.value
    )
    assert "seqlens_k[0] = 2 is too small for sequence_length 5" in str(refused.value)


def test_what_stops_the_driver_names_the_artifact(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    copy = shutil.copytree(embedded_artifact("fp32-ort"), tmp_path / "copy")
    graph = onnx.load(copy / "onnx" / "model.onnx", load_external_data=False)
    for node in graph.graph.node:
        if node.op_type == "GroupQueryAttention":
            window = next(a for a in node.attribute if a.name == "local_window_size")
            window.i = 81  # of a cache of 80 rows
    onnx.save(graph, copy / "onnx" / "model.onnx")
    runner = open_graph_under_test(copy, checkpoint.config).runner()
    with pytest.raises(
        ContractError, match="copy: onnxruntime cannot run it on 5 new tokens .*KV cache capacity"
    ):
        runner.feed(np.arange(5))
