"""A planted fault: how it changes a graph, and what the gate must find."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ..export.config import MistralConfig
from ..export.formats.checkpoint import Checkpoint
from ..export.options import NATIVE_SUFFIX
from ..export.published_tokenizer.tokenizer_files import PublishedTokenizer
from ..runtime.contract import MODEL_FILE, NATIVE_MODEL_FILE
from ..runtime.errors import GraphError

MODEL = Path(__file__).parents[1] / "models" / "stdlib-5m"
Change = Callable[[np.ndarray], np.ndarray]


def multiplied(part: int | slice | tuple[int | slice, ...], factor: float) -> Change:
    """A change that multiplies a part of an array by a number, in the array's type."""

    def change(array: np.ndarray) -> np.ndarray:
        array[part] *= array.dtype.type(factor)
        return array

    return change


class Graph:
    """A graph with all its weights in memory, to be changed."""

    def __init__(
        self, artifact: Path, checkpoint: Path = MODEL, *, file: str = MODEL_FILE
    ) -> None:
        self._checkpoint = checkpoint
        self.model = onnx.load(artifact / file)
        self._weights = {weight.name: weight for weight in self.model.graph.initializer}

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that the artifact was made from."""
        return Checkpoint.open(self._checkpoint)

    @property
    def config(self) -> MistralConfig:
        """Architecture of the checkpoint; the artifact's window may be another."""
        return self.checkpoint.config

    @property
    def layers(self) -> int:
        """Number of layers."""
        return sum(output.name.endswith(".key") for output in self.model.graph.output)

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self._cached(1)

    @property
    def rows(self) -> int:
        """Rows of the KV cache."""
        return self._cached(2)

    @property
    def head_size(self) -> int:
        """Head size."""
        return self._cached(3)

    def _cached(self, axis: int) -> int:
        (present,) = (one for one in self.model.graph.output if one.name == "present.0.key")
        size: int = present.type.tensor_type.shape.dim[axis].dim_value
        return size

    def nodes(self, *op_types: str) -> list[Any]:
        """Nodes of the main graph, in order."""
        return [node for node in self.model.graph.node if node.op_type in op_types]

    def body(self) -> Any:
        """The attention's function of standard operators; only target ``portable`` has it."""
        return self.model.functions[0]

    def in_body(
        self, op_type: str, *, making: str | None = None, reading: str | None = None
    ) -> Any:
        """The first node of this type in that body, by a tensor that it reads or makes."""
        return next(
            node
            for node in self.body().node
            if node.op_type == op_type
            and making in (None, *node.output)
            and reading in (None, *node.input)
        )

    def maker(self, name: str) -> Any:
        """The node that computes a tensor."""
        return next(node for node in self.model.graph.node if name in node.output)

    def multiplication(self, weight: str) -> Any:
        """The node that reads a weight, by the start of its name."""
        return next(
            node
            for node in self.model.graph.node
            if any(name.startswith(weight) for name in list(node.input)[1:])
        )

    def names(self, start: str) -> Iterator[str]:
        """Names of weights that begin with ``start``."""
        return (name for name in self._weights if name.startswith(start))

    def embedding(self) -> list[str]:
        """Names of the weights that token ids are looked up in; the head's where they are tied.

        If the head's columns are gathered, the tokens get rows of their own first.
        """
        for gather in self.nodes("Gather"):
            if gather.input[0] == "head.weight.transposed":
                self._store_rows(gather, "embedding.weight")
        own = list(self.names("embedding.weight"))
        return own or list(self.names("head.weight"))

    def _store_rows(self, gather: Any, name: str) -> None:
        """Let a gather of columns, and the transpose behind it, read rows instead."""
        rows = numpy_helper.from_array(self.read(gather.input[0]).T.copy(), name)
        self._weights[name] = self.model.graph.initializer.add()
        self._weights[name].CopyFrom(rows)
        (transpose,) = (
            node for node in self.nodes("Transpose") if node.input[0] == gather.output[0]
        )
        gather.input[0] = name
        gather.attribute[0].i = 0
        transpose.attribute[0].ints.sort()

    def read(self, name: str) -> np.ndarray:
        """Values of a weight."""
        return np.array(numpy_helper.to_array(self._weights[name]))

    def published(self, name: str) -> np.ndarray:
        """Values of a weight in the checkpoint."""
        return self.checkpoint.read(name)

    def change(self, name: str, change: Change) -> None:
        """Replace a weight's values by changed ones."""
        self.write(name, change(self.read(name)))

    def write(self, name: str, array: np.ndarray) -> None:
        """Replace a weight's values."""
        old = self._weights[name]
        new = numpy_helper.from_array(np.ascontiguousarray(array), name)
        new.data_type = old.data_type
        old.CopyFrom(new)

    def swap(self, one: str, other: str) -> None:
        """Swap the values of two weights."""
        first, second = self.read(one), self.read(other)
        self.write(one, second)
        self.write(other, first)

    def set(self, node: onnx.NodeProto, name: str, value: float) -> None:
        """Set a node's attribute."""
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    def store(self, name: str, array: np.ndarray) -> None:
        """Store an array in place of the tensor that a node computes, or that is stored."""
        if name not in self._weights:
            self.model.graph.node.remove(self.maker(name))
            self._weights[name] = self.model.graph.initializer.add(name=name)
        self._weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def add_constant(self, name: str, array: np.ndarray) -> str:
        """Add a constant; return its name."""
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def between(self, name: str, op_type: str, *others: str, **attributes: Any) -> None:
        """Insert an operator between the node that computes a tensor and its readers."""
        maker = self.maker(name)
        made = f"{name}.before.{len(self.model.graph.node)}"
        for index, output in enumerate(maker.output):
            if output == name:
                maker.output[index] = made
        node = onnx.helper.make_node(op_type, [made, *others], [name], **attributes)
        place = list(self.model.graph.node).index(maker) + 1
        self.model.graph.node.insert(place, node)

    def reroute(self, old: str, new: str, *, readers: list[onnx.NodeProto] | None = None) -> None:
        """Make readers of one tensor read another."""
        for node in self.model.graph.node if readers is None else readers:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One small mutation of a good artifact."""

    name: str  # shown in docs/faults.md
    recipe: str  # of the good artifact, as ``options_named`` takes it
    plant: Callable[[Graph], None] | None = None  # changes the graph
    edit: Callable[[Path], None] | None = None  # changes other files, in a copy of the artifact
    place: str  # start of the place that the explanation must name
    cause: str  # part of the likely cause; empty: none is known
    applies: Callable[[MistralConfig], bool] | None = None  # None: to all models
    # None: to all tokenizers
    applies_to_tokenizer: Callable[[PublishedTokenizer], bool] | None = None

    @property
    def is_native(self) -> bool:
        """Whether it is planted in the graph for the native library."""
        return self.recipe.endswith(NATIVE_SUFFIX)

    @property
    def file(self) -> str:
        """The graph that it is planted in."""
        return NATIVE_MODEL_FILE if self.is_native else MODEL_FILE

    def fits(self, checkpoint: Checkpoint) -> bool:
        """Whether the model has what the fault changes."""
        if self.applies is not None and not self.applies(checkpoint.config):
            return False
        applies = self.applies_to_tokenizer
        return applies is None or applies(checkpoint.read_tokenizer())


def planted(fault: Fault, artifact: Path, copy: Path, checkpoint: Path = MODEL) -> Path:
    """Write a copy of a good artifact with the fault in it; ``copy`` must not exist.

    Raises:
        GraphError: the fault changes nothing in this artifact.
    """
    if fault.plant is not None:
        graph = Graph(artifact, checkpoint, file=fault.file)
        before = graph.model.SerializeToString(deterministic=True)
        fault.plant(graph)
        if graph.model.SerializeToString(deterministic=True) == before:
            raise _no_change(fault, artifact, "in its graph, expected another graph")
        shutil.copytree(artifact, copy, ignore=shutil.ignore_patterns("model.onnx*"))
        onnx.save(graph.model, copy / fault.file)
    if fault.edit is not None:
        shutil.copytree(artifact, copy, dirs_exist_ok=True)
        fault.edit(copy)
        if _files(copy) == _files(artifact):
            shutil.rmtree(copy)
            raise _no_change(fault, artifact, "in its files, expected another file")
    return copy


def _no_change(fault: Fault, artifact: Path, where: str) -> GraphError:
    return GraphError(
        f"{artifact}: the fault {fault.name!r} changes nothing {where}; limit the fault to the "
        "models that it applies to"
    )


def _files(folder: Path) -> dict[str, bytes]:
    """Files beside the graph, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
