"""Does a part of a graph, run by itself, give what the whole gives on the way?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tramontane.graphs.probing.subgraph import OpenedGraph
from tramontane.runtime.errors import ContractError
from tramontane.runtime.ort.ort_session import open_graph

TEXT = """(float[b,20] x) => (float[b,20] y) <float[20,21] u, float[21,20] v, float[20] w> {
    a = MatMul(x, u)
    c = MatMul(a, v)
    y = Add(c, w)
}"""
WEIGHTS = {"u": (20, 21), "v": (21, 20), "w": (20,)}


@pytest.fixture(params=["inline", "beside"])
def opened(
    request: pytest.FixtureRequest,
    build: Callable[..., ir.Model],
    normal: Callable[..., np.ndarray],
    tmp_path: Path,
) -> OpenedGraph:
    """A graph on disk, its weights within or in a file beside it."""
    model = build(TEXT, **{name: normal(*shape) for name, shape in WEIGHTS.items()})
    external = {} if request.param == "inline" else {"external_data": "weights"}
    ir.save(model, tmp_path / "model.onnx", size_threshold_bytes=0, **external)
    return OpenedGraph(tmp_path / "model.onnx")


def test_inner_tensors_come_out_beside_what_came_out_before(
    opened: OpenedGraph, normal: Callable[..., np.ndarray]
) -> None:
    x = normal(3, 20)
    session = open_graph(opened.path, changed=opened.with_outputs(["a", "y", "c"]))
    y, a, c = session.run(None, {"x": x})
    np.testing.assert_array_equal(y, open_graph(opened.path).run(None, {"x": x})[0])
    whole = open_graph(opened.path, changed=opened.between("a", "c"))
    np.testing.assert_allclose(whole.run(None, {"a": a})[0], c, rtol=1e-6)


def test_a_part_needs_its_own_weights_alone(opened: OpenedGraph) -> None:
    part = ir.from_proto(onnx.load_from_string(opened.between("a", "c")))
    assert [value.name for value in part.graph.initializers.values()] == ["v"]
    assert [value.name for value in part.graph.inputs] == ["a"]


def test_a_graph_is_left_as_it_was(opened: OpenedGraph) -> None:
    before = opened.path.read_bytes()
    opened.with_outputs(["a"])
    opened.between("x", "a")
    assert opened.with_outputs([]) == opened.with_outputs(["y"])
    assert opened.path.read_bytes() == before


def test_what_is_no_graph_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ContractError, match=r"model\.onnx: cannot be read \(No such file"):
        OpenedGraph(path)
    path.write_bytes(b"no graph")
    with pytest.raises(ContractError, match=r"model\.onnx: not an ONNX graph"):
        OpenedGraph(path)
