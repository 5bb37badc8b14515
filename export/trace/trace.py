"""Traces the model into a graph with its cache as inputs and outputs."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram

from ...console.processes.ask_module import answer_asked
from ...graphs.operator import schema
from ...runtime import contract
from ...runtime.errors import TraceError
from ..cache_choice import WINDOWED, CacheChoice, geometry_of
from ..config import MistralConfig, config_from_json
from ..model.model import Mistral
from ..model.rope import rope_of
from .bind_weights import leave_unbound
from .rope_nodes import compute_rope_tables

# Sizes to trace with: all different, none of them 0 or 1, which torch would take for constants.
_BATCH, _NEW, _PAST = 2, 3, 5


def trace(config: MistralConfig, cache: CacheChoice = WINDOWED) -> ir.Model:
    """Trace the model on tensors without numbers, and name inputs and outputs by the contract.

    Returns:
        The graph at opset 23, every linear layer as ``MatMul(x, Transpose(weight))``, attention
        as one ``SlidingWindowAttention`` node a layer. Its parameters are for ``bind``.

    Raises:
        TraceError: torch could not trace the model (this is a bug of ours, or of torch).
    """
    program = _export(config, cache)
    with _quiet(), FakeTensorMode():
        converted = torch.onnx.export(
            program,
            (),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=schema.OPSET,
            custom_translation_table={
                torch.ops.tramontane.sliding_window_attention.default: _attention_node
            },
        )
    if converted is None:
        raise TraceError("torch.onnx.export returned no graph; check the version of torch")
    model = converted.model
    ClearMetadataAndDocStringPass()(model)
    _forget_numbers(model.graph)
    onnxscript.optimizer.fold_constants(model)
    compute_rope_tables(model.graph, rope_of(config), num_positions=config.max_position_embeddings)
    _leave_parameters_unbound(model.graph)
    _name_by_contract(model.graph, geometry_of(config, cache))
    _forget_origins(model.graph)
    model.producer_name, model.producer_version = "tramontane", None
    model.graph.name = "tramontane"
    return model


def _export(config: MistralConfig, cache: CacheChoice) -> ExportedProgram:
    batch, new, seen = Dim("batch"), Dim("new"), Dim("seen")
    with FakeTensorMode():
        model = Mistral(config, cache).eval()
        past = model.empty_cache(_BATCH)
        seen_rows = Dim("past")
        sizes: list[dict[int, Any]] = [{0: batch} for _ in past]
        for layer, rows in enumerate(geometry_of(config, cache).rows):
            if rows is None:
                key, value = past[layer]
                past[layer] = _with_rows(key, _PAST), _with_rows(value, _PAST)
                sizes[layer][2] = seen_rows
        ids = torch.zeros(_BATCH, _NEW, dtype=torch.int64)
        mask = torch.ones(_BATCH, _PAST + _NEW, dtype=torch.int64)
        with torch.no_grad():
            return torch.export.export(
                model,
                (ids, mask, past),
                dynamic_shapes=(
                    {0: batch, 1: new},
                    {0: batch, 1: seen},
                    [(size, size) for size in sizes],
                ),
            )


def _with_rows(x: torch.Tensor, rows: int) -> torch.Tensor:
    return x.new_zeros(*x.shape[:2], rows, x.shape[3])


def _attention_node(
    *arguments: Any, window: int | None = None, grows: bool = False, rotates: bool = True
) -> Any:
    """Translate the eager operator to one opaque node; torch gives what it can by position."""
    tensors, given = arguments[: len(schema.INPUTS)], list(arguments[len(schema.INPUTS) :])
    window, grows, rotates = given + [window, grows, rotates][len(given) :]
    attributes = {} if window is None else {"window": window}
    if grows:
        attributes["grows"] = 1
    if not rotates:
        attributes["rotates"] = 0
    return schema.register_schema().SlidingWindowAttention(*tensors, **attributes)


class _quiet(warnings.catch_warnings):  # noqa: N801 - used as a statement
    """Hide a warning of torch's exporter about optional packages."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", FutureWarning)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)


def _forget_numbers(graph: ir.Graph) -> None:
    for value in graph.initializers.values():
        value.const_value = None


def _forget_origins(graph: ir.Graph) -> None:
    """onnx_ir's pass clears the nodes; the exporter and the folding leave notes on values too."""
    made = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *made):
        value.metadata_props.clear()


def _leave_parameters_unbound(graph: ir.Graph) -> None:
    """Folded constants have their values already."""
    for value in graph.initializers.values():
        if value.const_value is None:
            leave_unbound(value)


def _name_by_contract(graph: ir.Graph, geometry: contract.Geometry) -> None:
    """Rename inputs, outputs and their symbolic sizes as the contract has them.

    ``num_logits_to_keep`` comes later, by a pass; until then all logits are kept.
    """
    promised = contract.inputs(geometry)[:-1], contract.outputs(geometry)
    for values, tensors in zip((graph.inputs, graph.outputs), promised, strict=True):
        if len(values) != len(tensors):
            raise TraceError(f"traced {len(values)} tensors, the contract has {len(tensors)}")
        for value, tensor in zip(values, tensors, strict=True):
            value.name, value.shape = tensor.name, ir.Shape(tensor.shape)


def main() -> int:
    """Read config and cache as JSON from standard input, write the graph to standard output."""
    return answer_asked(_answer)


def _answer(asked: Any) -> bytes:
    config, cache = asked
    model = trace(config_from_json(config), CacheChoice(**cache))
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


if __name__ == "__main__":
    raise SystemExit(main())
