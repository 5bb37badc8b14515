"""The manifest's entry for each weight: how it was rounded and how far, or why it is float."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ...runtime.errors import GraphError
from .. import weights
from ..operator.schema import ROPE_FREQUENCIES
from ..passes.pack_qkv import parts_of
from ..quantization.quantize_cache import SCALES_NAME
from ..quantization.recipes.recipe import Recipe
from ..quantization.rounded_matrices import RoundedMatrices
from .external_data import initializers_as_read

WHY_SCALES = "scales of the codes beside it"


def describe_tensors(graph: ir.Graph, *, recipe: Recipe) -> list[dict[str, Any]]:
    """One entry for each initializer, in the order in which the graph reads them.

    Bits and shape of codes are those of the numbers, whatever type their bytes are declared as.
    """
    return [_describe(value, recipe) for value in initializers_as_read(graph)]


def with_errors(
    tensors: Sequence[dict[str, Any]],
    errors: Mapping[str, float],
    rounded: RoundedMatrices | None = None,
) -> list[dict[str, Any]]:
    """The entries with how far each matrix moved, and its rank among them, the worst first.

    The rank is by the error of a matrix's outputs where calibration measured it, else by that of
    its weights.

    Args:
        tensors: as ``describe_tensors`` returned.
        errors: of weights, by the name of the matrix in the graph.
        rounded: the matrices that calibration rounded.
    """
    measured: dict[str, dict[str, float]] = {}
    for matrix in dict.fromkeys(one["matrix"] for one in tensors if "matrix" in one):
        outputs = None if rounded is None else rounded.output_error(parts_of(matrix))
        found = {"error": errors.get(matrix), "output_error": outputs}
        measured[matrix] = {k: float(f"{v:.4g}") for k, v in found.items() if v is not None}
    harm = {name: one.get("output_error", one.get("error", 0.0)) for name, one in measured.items()}
    ranks = {n: rank for rank, n in enumerate(sorted(harm, key=lambda n: -harm[n]), start=1)}
    return [
        {**one, **measured[one["matrix"]], "rank_by_harm": ranks[one["matrix"]]}
        if "matrix" in one
        else one
        for one in tensors
    ]


def refuse_in_float(
    tensors: Iterable[dict[str, Any]], recipe: Recipe, expected: Collection[str]
) -> None:
    """Refuse a graph in which a matrix stayed in float although the recipe says otherwise.

    Args:
        tensors: as ``describe_tensors`` returned.
        recipe: of the export.
        expected: parameters that it quantizes; a tied matrix has one of two names.

    Raises:
        GraphError: naming the matrix and the line.
    """
    packed = {part for one in tensors if "matrix" in one for part in parts_of(one["matrix"])}
    for name in expected:
        if name not in packed:
            rule = recipe.rule_for(name)
            raise GraphError(
                f"{name}: stayed in float32, expected {rule.bits} bits by "
                f"{recipe.where(rule)}; this is a bug, report it, or give the matrix a line with "
                "bits = 32"
            )


def _describe(value: ir.Value, recipe: Recipe) -> dict[str, Any]:
    dtype = value.dtype
    assert dtype is not None, "a weight has a type"
    name, shape, packing = str(value.name), weights.size_of(value), weights.packing(value)
    origin = weights.origin(value)
    if packing is not None and origin is not None:
        bits, block, numbers = packing
        codes = {"name": name, "shape": list(numbers), "bits": bits, "block": block}
        return {**codes, **{name: one for name, one in origin._asdict().items() if one}}
    entry = {"name": name, "shape": list(shape), "bits": dtype.bitwidth}
    if weights.is_scales(value):
        entry["why_float"] = WHY_SCALES
    elif dtype == ir.DataType.FLOAT:
        entry["why_float"] = _why_float(name, shape, recipe)
    return entry


def _why_float(name: str, shape: tuple[int, ...], recipe: Recipe) -> str:
    if name.startswith(SCALES_NAME):
        return "scales of the cache's channels"
    if not recipe.is_quantized:
        return f"QUANT={recipe.name}"
    if name == ROPE_FREQUENCIES:
        return "rope's frequencies: computed, not learned"
    if len(shape) < 2:
        return "a norm's vector: too small to matter"
    matrix = name.removesuffix(weights.TRANSPOSED)
    rule = next((rule for rule in recipe.rules if rule.matches(matrix)), None)
    if rule is not None and not rule.is_quantized:
        return f'the recipe: "{rule.pattern}" has bits = {rule.bits}'
    return "no pass packs it"
