"""Runs a part of a graph by itself, and makes inner tensors outputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from .attention_caches import (
    appends_to_one_sequence,
    find_cache_scales,
    has_windowed_cache,
    holds_cache_in_half,
)
from .linked_data import name_files_behind_links
from .matmuls import fewest_bits
from .read_graph import read_graph
from .stored_product import Serialized, StoredProduct
from .tensor_roles import TensorRoles, find_tensor_roles


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
        self.appends_to_one_sequence = appends_to_one_sequence(model.graph)
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
        nodes, weights, _ = self._made_from([result], {source})
        inputs = [value for value in self._proto.graph.input if value.name == source]
        return self._serialized(nodes, inputs or [_anything(source)], [_anything(result)], weights)

    def stored_product(self, result: str) -> StoredProduct | None:
        """The matmul that makes ``result``; None where it multiplies activations by others."""
        node = next((one for one in self._proto.graph.node if result in one.output), None)
        slots = [] if node is None else [i for i, name in enumerate(node.input) if i and name]
        if node is None or not slots:
            return None
        nodes, weights, is_whole = self._made_from([node.input[slot] for slot in slots], set())
        if not is_whole:
            return None
        names = [f"input {slot}" for slot in slots]
        copies = [
            onnx.helper.make_node("Identity", [node.input[slot]], [name])
            for slot, name in zip(slots, names, strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in names]
        return StoredProduct(
            operator=node.op_type,
            source=node.input[0],
            attributes={a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
            slots=tuple(slots),
            operands=self._serialized([*nodes, *copies], [], outputs, weights),
        )

    def _made_from(
        self, results: Sequence[str], sources: Collection[str]
    ) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], bool]:
        """Nodes and weights that make tensors from others, and whether nothing else is read."""
        graph = self._proto.graph
        made_by = {name: number for number, node in enumerate(graph.node) for name in node.output}
        reached, needed, waiting = set(sources), set(), list(results)
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            if name in made_by:
                needed.add(made_by[name])
                waiting += [read for read in graph.node[made_by[name]].input if read]
        weights = [weight for weight in graph.initializer if weight.name in reached]
        known = {*made_by, *sources, *(weight.name for weight in weights)}
        return [graph.node[number] for number in sorted(needed)], weights, reached <= known

    def _serialized(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        weights: Sequence[onnx.TensorProto],
    ) -> Serialized:
        part = onnx.helper.make_graph(nodes, "part", inputs, outputs, weights)
        model = onnx.helper.make_model(
            part, opset_imports=self._proto.opset_import, functions=self._proto.functions
        )
        model.ir_version = self._proto.ir_version
        return bytes(model.SerializeToString())


def _anything(name: str) -> onnx.ValueInfoProto:
    """A float tensor of whatever shape the runtime infers."""
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
