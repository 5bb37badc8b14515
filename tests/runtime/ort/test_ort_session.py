"""Graphs open through links, and a failure says which of its causes it has."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.cli import main as cli
from tramontane.export.build import export_checkpoint
from tramontane.export.options import options_named
from tramontane.graphs import weights
from tramontane.graphs.quantization.matrix_schemes import MatrixSchemes
from tramontane.graphs.quantization.packing.pack_for_ort import PackForOrt
from tramontane.graphs.quantization.recipes.recipe import Recipe, Rule
from tramontane.runtime import Session
from tramontane.runtime.contract import DATA_FILE, MODEL_FILE
from tramontane.runtime.errors import ContractError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.ort import ort_session
from tramontane.runtime.ort.ort_session import ort

ROOT = Path(__file__).parents[3]
LINEAR = """<ir_version: 10, opset_import: ["" : 21]>
graph (float[b,t,64] x) => (float[b,t,6] z) <float[6,64] w> {
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
    z = Identity(y)
}"""
SEQUENCE = list(range(3, 103))
FAILURES = [
    ort.capi.onnxruntime_pybind11_state.InvalidGraph("Unrecognized attribute:\n " + "x" * 5000),
    ort.capi.onnxruntime_pybind11_state.Fail("Opset 23 is under development"),
    ort.capi.onnxruntime_pybind11_state.InvalidProtobuf("Protobuf parsing failed"),
]


def as_hub(artifact: Path, to: Path) -> Path:
    """The layout of huggingface_hub's cache: each file is a link to a blob, here of two names."""
    snapshot = to / "snapshots" / "rev"
    (to / "blobs").mkdir(parents=True)
    files = sorted(path for path in artifact.rglob("*") if path.is_file())
    for number, file in enumerate(files):
        blob, link = to / "blobs" / f"hash{number}", snapshot / file.relative_to(artifact)
        shutil.copyfile(file, blob)  # a shared artifact must not become a file of two names
        os.link(blob, blob.with_suffix(".second"))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def as_hard_links(artifact: Path, to: Path) -> Path:
    copied = shutil.copytree(artifact, to.with_name("copied"))
    shutil.copytree(copied, to, copy_function=os.link)
    return to


def as_link(artifact: Path, to: Path) -> Path:
    to.symlink_to(artifact, target_is_directory=True)
    return to


@pytest.mark.parametrize("laid_out", [as_hub, as_hard_links, as_link])
def test_an_artifact_of_links_runs_as_its_files_do(
    embedded_artifact: Callable[[str], Path],
    tmp_path: Path,
    laid_out: Callable[[Path, Path], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    linked = Session.load(laid_out(artifact, tmp_path / "linked"), verify=True, threads=1)
    expected = Session.load(artifact, threads=1).prefill(SEQUENCE)
    np.testing.assert_array_equal(linked.prefill(SEQUENCE), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
def test_an_artifact_in_a_hub_s_cache_passes_the_gate(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint()
    export_checkpoint(checkpoint, tmp_path / "a", options_named("int8-ort"))
    artifact = as_hub(tmp_path / "a", tmp_path / "hub")
    assert cli.main(["validate", str(artifact), "--reference", str(checkpoint)]) == 0


def test_a_link_that_onnxruntime_does_not_follow_is_named_with_what_to_do(
    embedded_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact = embedded_artifact("int8-ort")
    copied = shutil.copytree(artifact, tmp_path / "copied")
    (copied / DATA_FILE).unlink()
    (copied / DATA_FILE).symlink_to(artifact / DATA_FILE)
    expected = r"model\.onnx_data: is a link to .*int8-ort/onnx/model\.onnx_data, expected a file"
    with pytest.raises(ContractError, match=f"{expected} below .*; replace the link with a copy"):
        Session.load(copied)


def failing(monkeypatch: pytest.MonkeyPatch, *, installed: str, error: Exception) -> None:
    """Let onnxruntime be of some version, and load nothing."""

    def load(*_: object, **__: object) -> None:
        raise error

    ort_session.saturates()  # kept from here on
    monkeypatch.setattr(ort, "__version__", installed)
    monkeypatch.setattr(ort, "InferenceSession", load)


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize("installed", ["1.29.1", "1.9.0", "1.31.0.dev20260101", "1.22.0+cu12"])
def test_an_onnxruntime_older_than_the_artifact_s_is_named_with_both_versions(
    embedded_artifact: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    installed: str,
    error: Exception,
) -> None:
    artifact = embedded_artifact("int8-ort")
    made_with = read_manifest(artifact).tools["onnxruntime"]
    failing(monkeypatch, installed=installed, error=error)
    with pytest.raises(ContractError) as found:
        Session.load(artifact)
    said = str(found.value)
    assert f"model.onnx: cannot be loaded by onnxruntime {installed}, expected {made_with}" in said
    assert (
        f"or newer, with which the artifact was made; pip install 'onnxruntime>={made_with}'"
        in said
    )
    assert "copy the artifact again" not in said
    assert "\n" not in said
    assert len(said) < 1000


def test_an_onnxruntime_newer_than_ours_may_be_what_an_artifact_needs(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "tiny") / MODEL_FILE
    failing(monkeypatch, installed="1.40.1", error=FAILURES[0])
    with pytest.raises(ContractError, match=r"1\.40\.1, expected 1\.41\.0 or newer, with which"):
        ort_session.open_graph(path, made_with="1.41.0")
    with pytest.raises(ContractError, match=r"cannot load it .*; copy the artifact again"):
        ort_session.open_graph(path, made_with="1.40.0")
    with pytest.raises(ContractError, match=r"cannot load it .*; copy the artifact again"):
        ort_session.open_graph(path)
    monkeypatch.setattr(ort, "__version__", "1.31.0")
    oldest = ort_session.OLDEST_ONNXRUNTIME
    with pytest.raises(ContractError, match=rf"1\.31\.0, expected {oldest} or newer; pip install"):
        ort_session.open_graph(path)


def test_the_oldest_onnxruntime_is_the_one_that_the_package_asks_for() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"onnxruntime>={ort_session.OLDEST_ONNXRUNTIME}" in asked["dependencies"]


def test_scales_that_onnxruntime_did_not_fold_are_refused_where_kernels_take_them_for_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all optimizations disabled, MatMulNBits yields zeros."""
    model, ones = ir.from_onnx_text(LINEAR), np.ones((6, 64), np.float32)
    (matrix,) = (value for value in model.graph.node(0).inputs if value is not None)
    matrix.const_value = weights.weight("w", lambda: ones, shape=ones.shape).const_value
    matrix.shape, matrix.type = ir.Shape(ones.shape), ir.TensorType(ir.DataType.FLOAT)
    model.graph.register_initializer(matrix)
    recipe = Recipe(name="test", rules=(Rule(pattern="*", bits=4, scales="uint8"),))
    PackForOrt(MatrixSchemes(recipe, block=32))(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    x = np.ones((1, 1, 64), np.float32)
    (y,) = ort_session.open_graph(path).run(None, {"x": x})
    np.testing.assert_allclose(y, np.full((1, 1, 6), 64), rtol=1e-2)

    class Disabled(ort.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL

    unnoticed = ort.InferenceSession(str(path), Disabled(), providers=["CPUExecutionProvider"])
    assert not unnoticed.run(None, {"x": x})[0].any()
    monkeypatch.setattr(ort, "SessionOptions", Disabled)
    with pytest.raises(ContractError) as refused:
        ort_session.open_graph(path)
    assert re.search(
        r"model.onnx: onnxruntime .* computes 1 scales of weights at each step, w.byte_scales the "
        r"first, expected all of them while it loads .*; load it with graph optimizations on",
        str(refused.value),
    )


DRIVER_ALONE = """
import importlib.abc, sys
sys.path[:] = {path!r}
absent = set({absent!r})

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from tramontane.runtime import Sampler, Session
session = Session.load({artifact!r}, verify=True)
print("".join(session.generate("def f(x):", max_new_tokens=9, sampler=Sampler(seed=1))), end="")
"""


def needed(name: str, found: set[str]) -> set[str]:
    """A package and all that it asks for without extras."""
    if name not in found:
        found.add(name)
        for requirement in importlib.metadata.requires(name) or ():
            if "extra ==" not in requirement:
                needed(re.match(r"[\w.-]+", requirement)[0], found)  # type: ignore[index]
    return found


def test_the_driver_runs_where_only_its_three_packages_are_installed(
    embedded_artifact: Callable[[str], Path],
) -> None:
    kept: set[str] = {"tramontane"}
    for name in ("numpy", "onnxruntime", "sentencepiece"):
        needed(name, kept)
    kept = {name.lower().replace("_", "-") for name in kept}
    absent = sorted(
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if not any(name.lower().replace("_", "-") in kept for name in packages)
    )
    assert {"torch", "onnx", "onnx_ir", "jinja2", "huggingface_hub", "psutil"} <= set(absent)
    artifact = embedded_artifact("int8-ort")
    code = DRIVER_ALONE.format(path=sys.path, absent=absent, artifact=str(artifact))
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(Session.load(artifact).generate("def f(x):", max_new_tokens=9))
