"""Graphs whose files are links, as in a hub's cache, are looked into as any other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.probing.read_graph import read_graph
from tramontane.graphs.probing.subgraph import OpenedGraph
from tramontane.runtime.ort.ort_session import open_graph

TEXT = """(float[b,20] x) => (float[b,20] y) <float[20,21] u, float[21,20] v> {
    a = MatMul(x, u)
    y = MatMul(a, v)
}"""


@pytest.fixture
def whole(
    build: Callable[..., ir.Model], normal: Callable[..., np.ndarray], tmp_path: Path
) -> Path:
    folder = tmp_path / "whole"
    folder.mkdir()
    model = build(TEXT, u=normal(20, 21), v=normal(21, 20))
    ir.save(model, folder / "model.onnx", external_data="weights", size_threshold_bytes=0)
    return folder


def as_hub(whole: Path, to: Path) -> Path:
    (to / "blobs").mkdir(parents=True)
    (to / "onnx").mkdir()
    for number, file in enumerate(sorted(whole.iterdir())):
        os.link(file, to / "blobs" / f"hash{number}")  # also a second hard link
        (to / "onnx" / file.name).symlink_to(f"../blobs/hash{number}")
    return to / "onnx"


def as_hard_links(whole: Path, to: Path) -> Path:
    to.mkdir()
    for file in whole.iterdir():
        os.link(file, to / file.name)
    return to


def as_linked_folder(whole: Path, to: Path) -> Path:
    to.symlink_to(whole, target_is_directory=True)
    return to


def as_it_is(whole: Path, to: Path) -> Path:
    return whole


@pytest.mark.parametrize("laid_out", [as_it_is, as_hub, as_hard_links, as_linked_folder])
def test_parts_run_and_weights_are_read_however_the_files_are_linked(
    whole: Path,
    tmp_path: Path,
    normal: Callable[..., np.ndarray],
    laid_out: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = laid_out(whole, tmp_path / "linked") / "model.onnx"
    x = normal(3, 20)
    u, v = (
        read_graph(path).graph.initializers[name].const_value.numpy()  # type: ignore[union-attr]
        for name in "uv"
    )
    opened = OpenedGraph(path)
    y, a = open_graph(path, changed=opened.with_outputs(["a"])).run(None, {"x": x})
    np.testing.assert_allclose(a, x @ u, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, a @ v, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(open_graph(path).run(None, {"x": x})[0], y)
    (part,) = open_graph(path, changed=opened.between("a", "y")).run(None, {"a": a})
    np.testing.assert_array_equal(part, y)
    monkeypatch.chdir(path.parent)
    here = OpenedGraph(Path("model.onnx"))
    np.testing.assert_array_equal(
        open_graph(here.path, changed=here.with_outputs(["a"])).run(["a"], {"x": x})[0], a
    )


def test_a_linked_weight_gives_the_bytes_that_its_file_holds(whole: Path, tmp_path: Path) -> None:
    path = as_hub(whole, tmp_path / "hub") / "model.onnx"
    tensor = read_graph(path).graph.initializers["u"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.location == "weights"
    assert tensor.tobytes() == np.asarray(tensor).tobytes() == tensor.numpy().tobytes()
    with (tmp_path / "out").open("w+b") as file:
        tensor.tofile(file)
    assert (tmp_path / "out").read_bytes() == tensor.tobytes()


@pytest.mark.parametrize("location", ["../secret", "/secret"])
def test_weights_that_a_graph_names_outside_of_its_folder_are_not_read(
    whole: Path, tmp_path: Path, location: str
) -> None:
    (tmp_path / "secret").write_bytes((whole / "weights").read_bytes())
    location = (
        location.replace("/secret", f"{tmp_path}/secret") if location[0] == "/" else location
    )
    model = ir.load(whole / "model.onnx")
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert isinstance(tensor, ir.ExternalTensor)
        value.const_value = ir.ExternalTensor(
            location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
        )
    ir.save(model, whole / "model.onnx")
    read = read_graph(whole / "model.onnx").graph.initializers["u"].const_value
    assert read is not None
    with pytest.raises(ValueError, match="outside the base directory"):
        read.numpy()
