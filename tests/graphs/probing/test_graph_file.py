"""Graphs that cannot be run end in one typed line, and none is walked without end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from tramontane.graphs.lint.rules import lint
from tramontane.graphs.probing.read_graph import read_graph
from tramontane.runtime.errors import ContractError

TEXT = """<ir_version: 10, opset_import: ["":23]> g (float[N] x) => (float[N] y) {
y = Add(x, w) }"""
CYCLE = """<ir_version: 10, opset_import: ["":23]> g (float[N] x) => (float[N] y) {
a = Transpose(b) b = Transpose(a) y = MatMul(x, a) }"""
OWN_INPUT = """<ir_version: 10, opset_import: ["":23]> g (float[N] x) => (float[N] y) {
a = Transpose(a) y = MatMul(x, a) }"""
IN_FUNCTION = """<ir_version: 10, opset_import: ["":23, "own":1]> g (float[N] x) => (float[N] y) {
y = own.f(x) } <domain: "own", opset_import: ["":23]> f (x) => (y) {
a = Transpose(b) b = Transpose(a) y = MatMul(x, a) }"""


def model() -> onnx.ModelProto:
    found = parser.parse_model(TEXT)
    found.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "w"))
    return found


def external(location: str | bytes, **more: str) -> onnx.ModelProto:
    found = model()
    weight = found.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    if isinstance(location, bytes):  # protobuf's classes take text alone
        weight.external_data.add(key="location", value="@" * len(location))
        return onnx.ModelProto.FromString(
            found.SerializeToString().replace(b"@" * len(location), location)
        )
    for key, value in {"location": location, **more}.items():
        weight.external_data.add(key=key, value=value)
    return found


def with_dtype(dtype: int) -> onnx.ModelProto:
    found = model()
    found.graph.initializer[0].data_type = dtype
    return found


def with_attribute() -> onnx.ModelProto:
    found = model()
    constant = helper.make_node("Constant", [], ["c"], value=found.graph.initializer[0])
    constant.attribute[0].t.data_type = 99
    found.graph.node.append(constant)
    return found


def with_shape(*sizes: int) -> onnx.ModelProto:
    found = model()
    found.graph.initializer[0].dims[:] = sizes
    return found


def test_a_good_graph_is_read(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    assert [node.op_type for node in read_graph(tmp_path / "m.onnx").graph] == ["Add"]


@pytest.mark.parametrize("text", [CYCLE, OWN_INPUT, IN_FUNCTION])
def test_a_cycle_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.onnx").write_bytes(parser.parse_model(text).SerializeToString())
    start = time.perf_counter()
    with pytest.raises(ContractError, match=r"m\.onnx: not an ONNX graph .*cycle"):
        lint(tmp_path / "m.onnx")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: with_dtype(99), "tensor 'w' has data type 99, expected one that ONNX"),
        (lambda: with_dtype(0), "tensor 'w' has data type 0"),
        (with_attribute, "has data type 99"),
        (lambda: with_shape(-1), r"tensor 'w' has shape \[-1\], expected sizes"),
        (lambda: with_shape(2**40, 2**40), "tensor 'w' has shape"),
        (lambda: external("x" * 10**6), "tensor 'w' lies in 'xxx"),
        (lambda: external("a\n"), r"tensor 'w' lies in 'a\\n'"),
        (lambda: external(""), "tensor 'w' lies in ''"),
        (lambda: external(b"\xff\xfe"), r"tensor 'w' lies in b'\\xff\\xfe'"),
        (lambda: external("w", offset="x"), "tensor 'w' has offset 'x', expected a number"),
        (lambda: external("w", length="9" * 99), "tensor 'w' has length '999"),
    ],
)
def test_what_no_runtime_can_run_is_named(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], said: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(ContractError, match=rf"m\.onnx: .*{said}") as found:
        lint(tmp_path / "m.onnx")
    assert len(str(found.value)) < 600


def test_a_graph_that_would_allocate_terabytes_is_linted_without_running(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["":23]> g (float[N] x) => (float[M] y) {
    size = Constant<value_ints=[1000000000000]>() y = ConstantOfShape(size) }"""
    (tmp_path / "m.onnx").write_bytes(parser.parse_model(text).SerializeToString())
    start = time.perf_counter()
    lint(tmp_path / "m.onnx")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("version", [-(2**63), -1, 0, 2**31, 2**63 - 1])
def test_a_version_of_operators_that_none_has_is_linted(tmp_path: Path, version: int) -> None:
    found = model()
    found.opset_import[0].version = version
    (tmp_path / "m.onnx").write_bytes(found.SerializeToString())
    lint(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", [b"Add", b"float_input", b"w"])
def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path, name: bytes) -> None:
    found = model()
    found.graph.node[0].input[0] = found.graph.input[0].name = "float_input"
    content = found.SerializeToString()
    assert name in content
    (tmp_path / "m.onnx").write_bytes(content.replace(name, b"\xff" * len(name)))
    with pytest.raises(ContractError, match=r"m\.onnx: the name b'\\xff.* is not UTF-8"):
        lint(tmp_path / "m.onnx")
