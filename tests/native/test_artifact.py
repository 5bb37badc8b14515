"""Is the graph with the native kernel written, proved and run, and is its absence said?"""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tramontane.cli import main
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import ExportOptions
from tramontane.graphs.operator import schema
from tramontane.runtime.contract import DATA_FILE, MODEL_FILE, NATIVE_MODEL_FILE
from tramontane.runtime.errors import ContractError, ParityError
from tramontane.runtime.loading import open_artifact
from tramontane.runtime.manifest import read_manifest, write_manifest
from tramontane.runtime.model import Model
from tramontane.runtime.ort import native_library
from tramontane.validate.run_gate import require_parity

from ..support.once import Once

pytestmark = pytest.mark.slow


@pytest.fixture(params=["float32", "int8"])
def artifact(once: Once, library: Path, two_layers: Path, request: pytest.FixtureRequest) -> Path:
    """An artifact of the tiny model with both graphs, not proved."""
    options = ExportOptions(quant="int8", target="ort", kv=request.param, native=True)
    return once(f"native-{request.param}", lambda out: export_checkpoint(two_layers, out, options))


def test_both_graphs_read_the_same_weights(artifact: Path) -> None:
    graphs = [
        onnx.load(artifact / name, load_external_data=False)
        for name in (MODEL_FILE, NATIVE_MODEL_FILE)
    ]
    kernels = [
        [n.domain for n in graph.graph.node if n.op_type == "GroupQueryAttention"]
        for graph in graphs
    ]
    assert kernels == [["com.microsoft"] * 2, ["tramontane.native"] * 2]
    assert graphs[0].graph.initializer == graphs[1].graph.initializer
    stored = [w for w in graphs[1].graph.initializer if w.external_data]
    assert {w.external_data[0].value for w in stored} == {Path(DATA_FILE).name}


def test_the_driver_takes_it_where_it_can_and_says_so(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prompt = list(range(5, 60))
    with Model.load(artifact) as model, Model.load(artifact, native=False) as other:
        assert (model.is_native, other.is_native) == (True, False)
        one, two = (each.session().prefill(prompt, all_logits=True) for each in (model, other))
    np.testing.assert_allclose(one, two, atol=0.05)  # activations in 8 bits
    monkeypatch.setattr(native_library, "BUILT", tmp_path)
    assert not Model.load(artifact).is_native
    with pytest.raises(ContractError, match="needs the native library, which is not installed"):
        Model.load(artifact, native=True)


def test_the_command_says_which_kernel_computed(
    artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", str(artifact), "def f(", "--max-new-tokens", "5", "--stats"]
    assert main.main(words) == 0
    assert capsys.readouterr().err.endswith("attention by the native library\n")
    monkeypatch.setattr(native_library, "find_library", lambda: None)
    monkeypatch.setattr(open_artifact, "find_library", lambda: None)
    assert main.main(words) == 0
    assert capsys.readouterr().err.endswith("attention by onnxruntime\n")


def test_a_library_of_another_version_of_the_operator_is_refused(
    artifact: Path, library: Path, copied: Callable[[Path], Path]
) -> None:
    newer = copied(artifact)
    manifest = read_manifest(newer)
    assert manifest.native is not None
    native = dataclasses.replace(manifest.native, operator_version=2)
    write_manifest(newer, dataclasses.replace(manifest, native=native))
    message = f"{library.name}: computes version 1 of the operator, expected 2, which .* needs"
    for asked in (None, True):
        with pytest.raises(ContractError, match=message):
            Model.load(newer, native=asked)
    assert not Model.load(newer, native=False).is_native


def test_a_library_that_names_no_version_is_refused(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_library, "BUILT", tmp_path)
    (tmp_path / native_library.library_name(platform.system())).write_bytes(b"no library")
    with pytest.raises(ContractError, match="does not say which version of the operator it comp"):
        Model.load(artifact)


def test_a_graph_that_another_kernel_would_compute_is_refused(
    artifact: Path, copied: Callable[[Path], Path]
) -> None:
    spoilt = copied(artifact)
    shutil.copy(spoilt / MODEL_FILE, spoilt / NATIVE_MODEL_FILE)
    with pytest.raises(ContractError, match=r"computed by com.microsoft, expected tramontane.nat"):
        Model.load(spoilt)
    graph = onnx.load(artifact / NATIVE_MODEL_FILE, load_external_data=False)
    last = [node for node in graph.graph.node if node.op_type == "GroupQueryAttention"][-1]
    lowered = onnx.load(artifact / MODEL_FILE, load_external_data=False)
    (same,) = (node for node in lowered.graph.node if node.output[0] == last.output[0])
    last.CopyFrom(same)
    (spoilt / NATIVE_MODEL_FILE).write_bytes(graph.SerializeToString())
    with pytest.raises(ContractError, match=r"computed by com.microsoft, expected tramontane.nat"):
        Model.load(spoilt)


def test_versions_of_the_operator_are_one(library: Path) -> None:
    native_library.refuse_other_version(library, expected=schema.NATIVE_VERSION)


def test_asking_for_it_needs_the_graph(
    library: Path, two_layers: Path, artifact_of: Callable[[Path, str], Path]
) -> None:
    plain = artifact_of(two_layers, "int8-ort")
    assert not Model.load(plain).is_native
    with pytest.raises(ContractError, match="export the artifact with --native"):
        Model.load(plain, native=True)


def test_the_gate_proves_it_and_finds_a_window_that_is_one_off(
    artifact: Path, two_layers: Path, copied: Callable[[Path], Path]
) -> None:
    spoilt, checkpoint = copied(artifact), Checkpoint.open(two_layers)
    require_parity(spoilt, checkpoint)
    assert (spoilt / "parity" / "native" / "report.json").is_file()
    graph = onnx.load(spoilt / NATIVE_MODEL_FILE, load_external_data=False)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "local_window_size":
                attribute.i -= 1
    (spoilt / NATIVE_MODEL_FILE).write_bytes(graph.SerializeToString())
    with pytest.raises(ParityError, match="model_native.onnx"):
        require_parity(spoilt, checkpoint)


def test_the_command_measures_one_graph_and_names_the_other(
    artifact: Path, two_layers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for graph in (artifact, artifact / NATIVE_MODEL_FILE):
        assert main.main(["validate", str(graph), "--reference", str(two_layers)]) == 0
        said = f"{artifact / NATIVE_MODEL_FILE}: the graph for the native library was not measured"
        assert (said in capsys.readouterr().err) == (graph == artifact)


def test_it_is_refused_where_it_cannot_be_proved(
    two_layers: Path, tmp_path: Path, no_library: None
) -> None:
    for target, message in (("ort", "is not installed"), ("portable", "expected --target ort")):
        options = ExportOptions(quant="int8", target=target, native=True)
        with pytest.raises(ContractError, match=message):
            export_checkpoint(two_layers, tmp_path / "out", options)
