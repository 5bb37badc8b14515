"""Lint rules on files of weights: missing data, weights stored twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from ...runtime.contract import LOGITS
from ...runtime.sizes import format_bytes
from .facts import (
    MATRIX_INPUTS,
    Facts,
    LintFinding,
    gathers_by_tokens,
    input_of,
    label,
    missing_bytes,
    num_bytes,
    origin,
    storage,
    weight,
)

_AFTER_HEAD = {"Cast", "Mul", "Div", "Tanh", "Add", "Reshape", "Identity", "Slice"}


def data_missing(facts: Facts) -> Iterator[LintFinding]:
    """External data is missing, too short, or outside the graph's folder."""
    by_file: dict[str, list[ir.ExternalTensor]] = {}
    for value in facts.model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            by_file.setdefault(str(value.const_value.location), []).append(value.const_value)
    for location, tensors in by_file.items():
        path = facts.path.parent / location
        missing = [tensor for tensor in tensors if missing_bytes(tensor)]
        end = max((tensor.offset or 0) + tensor.nbytes for tensor in tensors)
        if Path(location).is_absolute() or not _is_inside(facts.path.parent, path):
            found = f"{len(tensors)} weights lie outside the graph's folder"
        elif missing and not path.is_file():
            found = f"no such file, expected {format_bytes(end)} with {len(tensors)} weights"
        elif missing:
            found = f"{path.stat().st_size} bytes, {len(tensors)} weights reach to byte {end}"
        else:
            continue
        yield LintFinding(
            rule="data-missing",
            severity="error",
            where=location,
            found=found,
            consequence=f"onnxruntime refuses to load {facts.path.name}",
            advice="copy the whole file beside the graph, under this name",
        )


def tied_stored_twice(facts: Facts) -> Iterator[LintFinding]:
    """config.json ties the embedding to the head; the file holds both."""
    embedding, head = _embedding(facts), _head(facts)
    if facts.config.get("tie_word_embeddings") is not True or not embedding or not head:
        return
    if storage(embedding) != storage(head):
        yield LintFinding(
            rule="tied-stored-twice",
            severity="warning",
            where=f"{embedding.name}, {head.name}",
            found=(
                f"{format_bytes(num_bytes(embedding))} and {format_bytes(num_bytes(head))} of "
                "the same numbers; config.json has tie_word_embeddings true"
            ),
            consequence=(
                f"{format_bytes(min(map(num_bytes, (embedding, head))))} of download and memory "
                "are duplicated"
            ),
            advice=(
                "store it once, in a layout that both can read (for packed weights, a block size "
                "that divides the width), and point two initializers at the same bytes"
            ),
        )


def table_transposed(facts: Facts) -> Iterator[LintFinding]:
    """The embedding is gathered from the transpose of a stored matrix."""
    for node in gathers_by_tokens(facts):
        table = input_of(node, 0)
        producer = None if table is None else table.producer()
        stored = weight(table)
        if stored is not None and producer is not None and producer.op_type == "Transpose":
            yield LintFinding(
                rule="table-transposed",
                severity="warning",
                where=label(node),
                found=f"rows are gathered from the transpose of {stored.name}",
                consequence=(
                    f"onnxruntime transposes it while loading: {format_bytes(num_bytes(stored))} "
                    "more memory, and a slower start"
                ),
                advice="store one row per vocabulary entry, and transpose it for the head",
            )


def _embedding(facts: Facts) -> ir.Value | None:
    return next((weight(input_of(node, 0)) for node in gathers_by_tokens(facts)), None)


def _head(facts: Facts) -> ir.Value | None:
    logits = next((value for value in facts.model.graph.outputs if value.name == LOGITS), None)
    node = None if logits is None else origin(logits, _AFTER_HEAD).producer()
    indices = () if node is None else reversed(MATRIX_INPUTS.get(node.op_type, ()))
    found = (weight(input_of(node, index)) for index in indices if node is not None)
    return next((value for value in found if value is not None), None)


def _is_inside(folder: Path, path: Path) -> bool:
    """Compare paths as written: a link may lead elsewhere."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
