"""Find the ONNX graphs of a folder; read one, its weights left in their files."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError

from ...runtime.errors import ContractError
from .linked_data import follow_links


def find_graphs(folder: Path) -> list[Path]:
    """The graphs that lie in a folder, or else in ``onnx`` below it."""
    return sorted(folder.glob("*.onnx")) or sorted(folder.glob("onnx/*.onnx"))


def read_graph(path: Path) -> ir.Model:
    """Read a graph; its weights stay in their files, which may be links.

    Raises:
        ContractError: no such file, or not an ONNX graph.
    """
    try:
        model = ir.load(path)
    except (OSError, DecodeError, ValueError) as error:
        raise ContractError(f"{path}: not an ONNX graph ({error}); copy it again") from error
    if not len(model.graph):
        raise ContractError(f"{path}: not an ONNX graph, it has no nodes; copy it again")
    follow_links(model, path.parent)
    return model
