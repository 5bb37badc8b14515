"""Reads the file of an ONNX graph, and refuses what no runtime could run, before it is walked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ...runtime.errors import ContractError
from ...runtime.untrusted.fields import shown
from ...runtime.untrusted.files import read_file

_MOST_BYTES = (1 << 31) - 1  # protobuf's own limit
_LONGEST_LOCATION = 255  # bytes of a file's name, of most file systems
_MOST_ELEMENTS = 1 << 62
_DTYPES = {dtype.value for dtype in ir.DataType} - {ir.DataType.UNDEFINED.value}
_REMEDY = "copy the artifact again"


def read_proto(path: Path) -> onnx.ModelProto:
    """Read a graph; weights outside its file stay there.

    Raises:
        ContractError: no regular file, no ONNX graph, or one with an unknown data type, an
            impossible shape, or weights in a file whose name no file can have.
    """
    content = read_file(path, most=_MOST_BYTES, remedy="copy it again")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
        for text in _texts(model):
            if not isinstance(text, str):  # protobuf's classes give bytes where it is not UTF-8
                raise ContractError(f"the name {shown(text)} is not UTF-8, expected text")
        for graph in _graphs(model):
            for tensor in graph.initializer:
                _refuse_tensor(tensor)
        for node in _nodes(model):
            for attribute in node.attribute:
                for tensor in (attribute.t, *attribute.tensors):
                    if tensor.ByteSize():
                        _refuse_tensor(tensor)
    except (DecodeError, ValueError) as error:  # ValueError: a name that is not UTF-8
        raise ContractError(
            f"{path}: not an ONNX graph ({error}), expected one; copy it again"
        ) from error
    except ContractError as error:
        raise ContractError(f"{path}: {error}; {_REMEDY}") from error
    return model


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph, and those inside its nodes and functions."""
    yield model.graph
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    waiting = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            waiting += attribute.g.node
            for graph in attribute.graphs:
                waiting += graph.node


def _texts(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """All names that a graph is walked by."""
    for entry in (*model.opset_import, *model.functions):
        yield entry.domain
    for function in model.functions:
        yield from (function.name, *function.input, *function.output, *function.attribute)
    for node in _nodes(model):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for graph in _graphs(model):
        yield graph.name
        yield from (tensor.name for tensor in graph.initializer)
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (each.dim_param for each in value.type.tensor_type.shape.dim)


def _refuse_tensor(tensor: onnx.TensorProto) -> None:
    name = shown(tensor.name)
    if tensor.data_type not in _DTYPES:
        raise ContractError(
            f"tensor {name} has data type {tensor.data_type}, expected one that ONNX "
            f"{onnx.__version__} has"
        )
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > _MOST_ELEMENTS:
        raise ContractError(f"tensor {name} has shape {shown(list(tensor.dims))}, expected sizes")
    for entry in tensor.external_data:
        if entry.key == "location":
            location = entry.value  # outside the folder: it is not read, and lint says so
            if not _is_file_name(location):
                raise ContractError(
                    f"tensor {name} lies in {shown(location)}, expected the name of a file beside "
                    "the graph or below; do not trust this graph"
                )
        elif entry.key in ("offset", "length") and not _is_count(entry.value):
            raise ContractError(
                f"tensor {name} has {entry.key} {shown(entry.value)}, expected a number of bytes"
            )


def _is_file_name(location: str | bytes) -> bool:
    """Whether files may have that name; protobuf's classes give bytes where it is not UTF-8."""
    if not isinstance(location, str) or not location or not location.isprintable():
        return False
    return all(len(part.encode()) <= _LONGEST_LOCATION for part in location.split("/"))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
