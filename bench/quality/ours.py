"""Our recipes of one model: their artifacts, sizes and logits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...environments import folders
from ...export.budget.asked import AUTO, Asked
from ...export.budget.find import find_for_size
from ...export.build import export_checkpoint, weights_code_digest
from ...export.cache_choice import choose_cache
from ...export.fingerprint import tool_versions
from ...export.formats.checkpoint import Checkpoint
from ...export.options import ExportOptions, decisive, read_texts
from ...graphs.quantization.recipes.all_recipes import find_recipe, recipe_names
from ...graphs.quantization.recipes.recipe import DEFAULT_BLOCK
from ...runtime import Session
from ...runtime.manifest import read_manifest
from .rows import Weights

_BLOCKS = (DEFAULT_BLOCK, 64, 32)  # the last is that of llama.cpp's plain formats
_BUDGETS = (3.9, 4.5, 5.0)  # bits per weight that a recipe is found for


def recipes() -> dict[str, ExportOptions | Asked]:
    """What to export, by name: every recipe, with open blocks smaller too, and budgets."""
    found: dict[str, ExportOptions | Asked] = {}
    for one in map(find_recipe, recipe_names()):
        for block in _BLOCKS if one.has_blocks else _BLOCKS[:1]:
            name = one.name if block == DEFAULT_BLOCK else f"{one.name} block {block}"
            found[name] = ExportOptions(quant=one.name, target="ort", block=block)
    for bits in _BUDGETS:
        found[f"{AUTO} {bits} bits"] = Asked(bits=bits)
    return found


def options_for(recipe: ExportOptions | Asked, checkpoint: Checkpoint) -> ExportOptions:
    """The options of an export; those of a budget are found on the bundled calibration text.

    Raises:
        ConfigError, CheckpointError: as ``find_for_size``.
    """
    if isinstance(recipe, ExportOptions):
        return recipe
    cache = choose_cache("windowed", kv="float32")
    found = find_for_size(checkpoint.path, (), recipe, read_texts(()), target="ort", cache=cache)
    return ExportOptions(quant=found.recipe, target="ort", budget=found.about)


def make_artifact(checkpoint: Checkpoint, options: ExportOptions, folder: Path) -> Path:
    """Export once; again if the checkpoint, the recipe or what makes the weights changed.

    Raises:
        Absent: a folder that is not ours has that name.
        TramontaneError: as ``export_checkpoint``.
    """
    source = sorted(checkpoint.hashes().items())

    def make(made: Path) -> None:
        export_checkpoint(checkpoint.path, made / "artifact", options, resume=False)
        checkpoint.refuse_changed()

    made_of = (source, decisive(options), weights_code_digest(), tool_versions())
    return folders.make_once(folder, made_of, make, saying=f"exporting {folder.name}") / "artifact"


def weights_of(artifact: Path) -> Weights:
    """The sizes of an artifact, by its manifest."""
    manifest = read_manifest(artifact)
    found = Counter(
        "float32" if one.get("why_float") else f"int{one['bits']}"
        for one in manifest.tensors
        if _is_matrix(one)
    )
    return Weights(
        weights_bytes=manifest.memory.weights_bytes,
        types=", ".join(f"{name} x {count}" for name, count in sorted(found.items())),
    )


def _is_matrix(tensor: dict[str, Any]) -> bool:
    """Whether it holds learned numbers: no vector, no scales or zero points."""
    is_float = "why_float" in tensor
    is_learned = "block" in tensor or (is_float and "scales" not in tensor["why_float"])
    return is_learned and len(tensor["shape"]) > 1


def score(artifact: Path, sequences: np.ndarray, logits: np.ndarray, *, threads: int) -> None:
    """Run sequences (N, T) int64, each from an empty cache, through the driver.

    Args:
        artifact: folder written by export.
        sequences: tokens.
        logits: (N * T, V) float32 that is filled.
        threads: for one operator.

    Raises:
        ContractError: as ``Session``.
    """
    session, T = Session.load(artifact, threads=threads), sequences.shape[1]
    for number, tokens in enumerate(sequences):
        session.reset()
        rows = slice(number * T, (number + 1) * T)
        logits[rows] = session.prefill(tokens.tolist(), all_logits=True, chunk=T)
