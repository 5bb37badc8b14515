"""The manifest's entry for each weight: bits, block, or why it stayed in float."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from .. import weights
from ..quantization.quantize_cache import SCALES_NAME
from ..quantization.recipes.recipe import Recipe
from .external_data import initializers_as_read


def describe_tensors(graph: ir.Graph, *, recipe: Recipe) -> list[dict[str, Any]]:
    """One entry for each initializer, in the order in which the graph reads them.

    Bits and shape of codes are those of the numbers, whatever type their bytes are declared as.
    """
    return [_describe(value, recipe) for value in initializers_as_read(graph)]


def _describe(value: ir.Value, recipe: Recipe) -> dict[str, Any]:
    dtype = value.dtype
    assert dtype is not None, "a weight has a type"
    name, shape, packing = str(value.name), weights.size_of(value), weights.packing(value)
    if packing is not None:
        bits, block, numbers = packing
        return {"name": name, "shape": list(numbers), "bits": bits, "block": block}
    entry = {"name": name, "shape": list(shape), "bits": dtype.bitwidth}
    if weights.is_scales(value):
        entry["why_float"] = "scales of the codes beside it"
    elif dtype == ir.DataType.FLOAT:
        entry["why_float"] = _why_float(name, shape, recipe)
    return entry


def _why_float(name: str, shape: tuple[int, ...], recipe: Recipe) -> str:
    if name.startswith(SCALES_NAME):
        return "scales of the cache's channels"
    if not recipe.is_quantized:
        return f"QUANT={recipe.name}"
    if name in ("cos_cache", "sin_cache"):
        return "rope table: computed, not learned"
    if len(shape) < 2:
        return "a norm's vector: too small to matter"
    return "no pass packs it"
