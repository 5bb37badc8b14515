"""Reads weights that lie behind links, as in a hub's cache.

``huggingface_hub`` keeps ``snapshots/REV/onnx/model.onnx`` and ``model.onnx_data`` as links to
``blobs/HASH``. onnx_ir refuses external data behind a link that leaves the graph's folder, and
files with a second hard link, because an untrusted graph could name a link to any file.
onnxruntime, which runs these graphs, follows the links: so do we, where the name that the graph
gives stays in its folder.

Source: onnx_ir 1.1, ``ExternalTensor._check_path_containment``, which skips its checks without a
``base_dir``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir


class LinkedTensor(ir.ExternalTensor):
    """A weight whose file may be a link; its location stays as the graph gives it."""

    def numpy(self) -> np.ndarray:
        """Values in the tensor's shape, memory-mapped from the file that the link leads to."""
        return self._behind_links().numpy()

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return self._behind_links().__array__(dtype)

    def tobytes(self) -> bytes:
        """Bytes as they are stored."""
        return self._behind_links().tobytes()

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes as they are stored."""
        self._behind_links().tofile(file)

    def _behind_links(self) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            os.path.realpath(self.path),
            self.offset,
            self.length,
            self.dtype,
            shape=self.shape,
            name=self.name or "",
        )


def follow_links(model: ir.Model, folder: Path) -> None:
    """Let a model's weights be read where their files, or the files themselves, are links.

    Args:
        model: just read; weights that it names outside of ``folder`` stay as they are.
        folder: in which the graph lies, or a link to it.
    """
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and _is_inside(folder, str(tensor.location)):
            value.const_value = LinkedTensor(
                tensor.location,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=tensor.name or "",
                base_dir=tensor.base_dir,
            )


def name_files_behind_links(model: onnx.ModelProto, path: Path) -> None:
    """Name each file of weights as it is called in the folder of the graph's own file.

    onnxruntime finds the weights of a serialized graph below one folder, and refuses links that
    leave it. Without links nothing changes.

    Args:
        model: a copy of the graph at ``path``.
        path: the graph, or a link to it.
    """
    folder = path.resolve().parent
    for weight in model.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location" and _is_inside(path.parent, entry.value):
                real = os.path.realpath(path.parent / entry.value)
                entry.value = Path(os.path.relpath(real, folder)).as_posix()


def _is_inside(folder: Path, location: str) -> bool:
    """By the path's words: whether what the graph names lies in its folder, a link or not."""
    named = os.path.abspath(folder / location)
    return not Path(location).is_absolute() and Path(named).is_relative_to(os.path.abspath(folder))
