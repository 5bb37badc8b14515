"""Find the ONNX graphs of a folder; read one, its weights left in their files."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ...runtime.errors import ContractError
from .graph_file import read_proto
from .linked_data import follow_links


def find_graphs(folder: Path) -> list[Path]:
    """The graphs that lie in a folder, or else in ``onnx`` below it."""
    return sorted(folder.glob("*.onnx")) or sorted(folder.glob("onnx/*.onnx"))


def read_graph(path: Path) -> ir.Model:
    """Read a graph; its weights stay in their files, which may be links.

    Raises:
        ContractError: as ``read_proto``, or it has no nodes or a cycle.
    """
    proto = read_proto(path)
    try:
        model = ir.serde.deserialize_model(proto)
        for graph in (model.graph, *(each.graph for each in model.functions.values())):
            graph.sort()  # walks along a cycle would not end
    except Exception as error:  # what onnx_ir raises has no type of its own
        raise ContractError(
            f"{path}: not an ONNX graph ({_first_cause(error)}), expected one; copy it again"
        ) from error
    if not len(model.graph):
        raise ContractError(
            f"{path}: not an ONNX graph, it has no nodes, expected some; copy it again"
        )
    ir.external_data.set_base_dir(model.graph, path.parent)
    follow_links(model, path.parent)
    return model


def _first_cause(error: BaseException) -> BaseException:
    """The error that the others were raised from, of which onnx_ir makes several."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
