"""Runs a part of a graph by itself, and makes inner tensors outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from .attention_caches import find_cache_scales, has_windowed_cache, holds_cache_in_half
from .linked_data import name_files_behind_links
from .matmuls import fewest_bits
from .read_graph import read_graph
from .tensor_roles import TensorRoles, find_tensor_roles

# A serialized graph whose weights stay in the files beside the original.
Serialized = bytes


class OpenedGraph:
    """A decoder's graph, read from its file; weights outside that file stay where they are."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            ContractError: no such file, or not an ONNX graph.
        """
        self.path = path
        model = read_graph(path)
        self._proto = ir.to_proto(model)
        name_files_behind_links(self._proto, path)
        self.bits = fewest_bits(model.graph)  # of a layer's weights; 32: all in float
        self.has_windowed_cache = has_windowed_cache(model.graph)
        self.cache_scales = find_cache_scales(model.graph)  # by past; empty: in float
        self.holds_cache_in_half = holds_cache_in_half(model.graph)
        self._graph = model.graph

    @property
    def files(self) -> list[Path]:
        """The graph's file and those of its weights, each once, where links lead."""
        path = self.path.resolve()
        names = {
            entry.value
            for weight in self._proto.graph.initializer
            for entry in weight.external_data
            if entry.key == "location"
        }
        return [path, *(path.parent / name for name in sorted(names))]

    def tensor_roles(self, num_layers: int) -> TensorRoles:
        """Which of its tensors are which.

        Raises:
            ContractError: a matmul is not found by its name.
        """
        return find_tensor_roles(self._graph, num_layers=num_layers)

    def with_outputs(self, names: Sequence[str]) -> Serialized:
        """The whole graph, with inner tensors as further outputs; those it has already stay."""
        changed = onnx.ModelProto()
        changed.CopyFrom(self._proto)
        present = {output.name for output in changed.graph.output}
        changed.graph.output.extend(_anything(name) for name in names if name not in present)
        return bytes(changed.SerializeToString())

    def between(self, source: str, result: str) -> Serialized:
        """The part of the graph that makes ``result`` from ``source`` and from weights alone."""
        graph = self._proto.graph
        made_by = {name: number for number, node in enumerate(graph.node) for name in node.output}
        reached, needed, waiting = {source}, set(), [result]
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            if name in made_by:
                needed.add(made_by[name])
                waiting += [read for read in graph.node[made_by[name]].input if read]
        inputs = [value for value in graph.input if value.name == source]
        part = onnx.helper.make_graph(
            [graph.node[number] for number in sorted(needed)],
            "part",
            inputs or [_anything(source)],
            [_anything(result)],
            [weight for weight in graph.initializer if weight.name in reached],
        )
        model = onnx.helper.make_model(
            part, opset_imports=self._proto.opset_import, functions=self._proto.functions
        )
        model.ir_version = self._proto.ir_version
        return bytes(model.SerializeToString())


def _anything(name: str) -> onnx.ValueInfoProto:
    """A float tensor of whatever shape the runtime infers."""
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
