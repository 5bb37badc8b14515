"""The name of the folder that an export writes where ``--out`` is not given. (stdlib only)

The Makefile asks for it with ``tramontane export --print-out``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..export.budget.asked import Asked
from ..export.window_choice import WindowChoice, window_as_text
from ..graphs.quantization.recipes.all_recipes import find_recipe
from ..graphs.quantization.recipes.recipe import Recipe
from .flags import CHOICE_DEFAULTS

ARTIFACTS = Path("artifacts")  # holds the artifacts that have no ``--out``


def artifact_name(
    checkpoint: Path,
    adapters: Sequence[Path] = (),
    *,
    quant: str | Recipe | Asked,
    target: str,
    block: int,
    cache: str,
    kv: str,
    window: WindowChoice | None,
) -> str:
    """A name that differs between any two exports of one checkpoint.

    >>> choices = {"quant": "int4", "target": "ort", "cache": "windowed", "kv": "int8"}
    >>> artifact_name(Path("models/stdlib-5m"), **choices, block=32, window=None)
    'stdlib-5m-int4-ort-b32-kv-int8'
    """
    merged = [adapter.resolve().name for adapter in adapters]
    recipe = quant if isinstance(quant, Asked) else find_recipe(quant)
    parts = [checkpoint.resolve().name, *merged, recipe.name, target]
    if window is not None:
        parts.append(f"w{window_as_text(window).replace(',', '-')}")
    if block != CHOICE_DEFAULTS["block"]:
        parts.append(f"b{block}")
    if cache != CHOICE_DEFAULTS["cache"]:
        parts.append(cache)
    if kv != CHOICE_DEFAULTS["kv"]:
        parts.append(f"kv-{kv}")
    return "-".join(parts)
