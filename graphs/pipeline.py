"""The passes of an export in their order, with a check of the graph before and after each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from ..runtime.contract import Geometry, is_quantized_cache
from ..runtime.errors import GraphError
from .check import check
from .passes.allow_left_padding import AllowLeftPadding
from .passes.fold_transposes import FoldTransposes
from .passes.fuse_rms_norm import FuseRmsNorm
from .passes.keep_last_logits import KeepLastLogits
from .quantization.activation_ranges import Calibration
from .quantization.matrix_schemes import MatrixSchemes
from .quantization.quantize_cache import QuantizeCache
from .quantization.recipes.all_recipes import find_recipe
from .quantization.recipes.recipe import DEFAULT_BLOCK, Recipe
from .quantization.rounding_errors import RoundingErrors
from .targets.all_targets import find_target


def passes(
    *,
    target: str,
    quant: str | Recipe,
    block: int = DEFAULT_BLOCK,
    kv: str = "float32",
    calibration: Calibration | None = None,
    errors: RoundingErrors | None = None,
) -> list[ir.passes.PassBase]:
    """The passes of one export, in order.

    Args:
        target: as in ``targets/all_targets.py``.
        quant: a recipe, or the name of one of ours.
        block: weights that share a scale, where the recipe fixes none.
        kv: what keys and values are held in, ``float32`` or ``int8``.
        calibration: how large activations, keys and values get, where either is fitted to them:
            where ``Recipe.is_calibrated``.
        errors: notes how far each matrix moves when it is rounded.

    Raises:
        GraphError: an unknown target or quant, a block size that kernels do not take, or a
            calibration that is missing.
    """
    runtime, recipe = find_target(target), find_recipe(quant)
    runtime.refuse_block(block)
    runtime.refuse_recipe(recipe)
    if recipe.is_calibrated(kv) != (calibration is not None):
        raise GraphError(
            f"{recipe.option} --kv {kv}: {'no' if calibration is None else 'a'} calibration was "
            "given, expected one where activations are smoothed or the cache has scales, and "
            "only there"
        )
    schemes = MatrixSchemes(recipe, block=block, calibration=calibration, errors=errors)
    return [
        FuseRmsNorm(),
        *recipe.passes(calibration),
        *runtime.attention_passes(recipe),
        *([QuantizeCache(calibration)] if calibration and is_quantized_cache(kv) else []),
        AllowLeftPadding(),
        KeepLastLogits(),
        *([runtime.packer(schemes)] if recipe.is_quantized else []),
        FoldTransposes(),
        RemoveUnusedNodesPass(),
        RemoveUnusedOpsetsPass(),
        NameFixPass(),
    ]


def run(
    model: ir.Model,
    geometry: Geometry,
    steps: list[ir.passes.PassBase],
    *,
    dump: Path | None = None,
) -> None:
    """Run the passes in place, checking the graph before the first and after each.

    Args:
        model: the traced graph.
        geometry: what the contract promises of it.
        steps: what ``passes`` returned.
        dump: folder for the graph as text after each pass, ``00_trace.txt`` first.

    Raises:
        GraphError: naming the pass after which the graph no longer kept a rule.
    """
    final, geometry = geometry, dataclasses.replace(geometry, cache_dtype="float32")
    _check_after("trace", model, geometry)
    _dump(dump, 0, "trace", model)
    for number, step in enumerate(steps, start=1):
        name = type(step).__name__
        try:
            step(model)
        except Exception as error:
            raise GraphError(f"pass {name} failed: {error.__cause__ or error}") from error
        if isinstance(step, QuantizeCache):
            geometry = final
        _check_after(f"pass {name}", model, geometry)
        _dump(dump, number, name, model)
    _check_after("the last pass", model, final)


def _check_after(stage: str, model: ir.Model, geometry: Geometry) -> None:
    try:
        check(model, geometry)
    except GraphError as error:
        raise GraphError(f"after {stage}: {error}") from error


def _dump(folder: Path | None, number: int, name: str, model: ir.Model) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}_{name}.txt").write_text(f"{model}\n", encoding="utf-8")
