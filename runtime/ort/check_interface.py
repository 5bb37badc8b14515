"""Compares a loaded graph's inputs and outputs with those that the manifest promises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import contract
from ..errors import ContractError

_ORT_DTYPES = {
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
}


def refuse_broken_promises(path: Path, geometry: contract.Geometry, graph: Any) -> None:
    """Compare the graph's inputs and outputs with those that the manifest's sizes imply.

    Raises:
        ContractError: naming the first tensor that is missing, unknown or different; or a name of
            the graph is not UTF-8.
    """
    try:
        _refuse_broken(path, geometry, graph)
    except UnicodeDecodeError as error:
        raise ContractError(
            f"{path}: a name among its inputs and outputs is not UTF-8 ({error}), expected text; "
            "copy the artifact again"
        ) from error


def _refuse_broken(path: Path, geometry: contract.Geometry, graph: Any) -> None:
    required, optional = list(graph.get_inputs()), list(graph.get_overridable_initializers())
    promised_inputs = contract.inputs(geometry)
    is_listed = {promise.name for promise in promised_inputs}
    # Older graphs list every initializer as an input; only those promised concern us.
    optional = [found for found in optional if found.name in is_listed]
    for found in required:
        if found.name == contract.NUM_LOGITS_TO_KEEP:
            raise ContractError(
                f"{path}: input {found.name} has no default, the manifest promises one; "
                "export the artifact again"
            )
    _compare(path, "input", [*required, *optional], promised_inputs)
    _compare(path, "output", list(graph.get_outputs()), contract.outputs(geometry))


def _compare(
    path: Path, kind: str, found: list[Any], promised: list[contract.TensorPromise]
) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    for promise in promised:
        tensor = by_name.pop(promise.name, None)
        if tensor is None:
            raise ContractError(
                f"{path}: {kind} {promise.name} is missing, the manifest promises it; "
                "export the artifact again"
            )
        dtype = _ORT_DTYPES.get(tensor.type, tensor.type)
        if dtype != promise.dtype or not _is_shape_kept(tensor.shape, promise.shape):
            raise ContractError(
                f"{path}: {kind} {promise.name} is {dtype} {list(tensor.shape)}, the manifest "
                f"promises {promise.dtype} {list(promise.shape)}; export the artifact again"
            )
    for name in by_name:
        raise ContractError(
            f"{path}: {kind} {name} is not promised by the manifest; export the artifact again"
        )


def _is_shape_kept(found: Sequence[Any], promised: Sequence[contract.Dimension]) -> bool:
    """Whether sizes agree; a free size may have any name."""
    return len(found) == len(promised) and all(
        not isinstance(size, int) if isinstance(promise, str) else size == promise
        for size, promise in zip(found, promised, strict=True)
    )
