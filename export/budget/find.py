"""Finds the recipe for a size: costs, the best choice, and the frontier that it lies on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...console.tasks.scheduler import open_scheduler
from ...graphs.quantization.recipes.read import parse_recipe
from ...graphs.quantization.recipes.recipe import Recipe
from ...graphs.targets.all_targets import find_target
from ...runtime.budget_fit import BudgetFit, FrontierPoint
from ..cache_choice import CacheChoice
from ..formats.checkpoint import Checkpoint
from ..window_choice import WindowChoice, adapted
from .asked import Asked
from .fit import Budget, Fit, recipe_text, sensitivities


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The recipe, and what is known of it."""

    recipe: Recipe
    weights_bytes: int  # of the files of weights
    about: BudgetFit


def find_for_size(
    path: Path,
    adapters: Sequence[Path],
    asked: Asked,
    texts: tuple[str, ...],
    *,
    target: str,
    cache: CacheChoice,
    window: WindowChoice | None = None,
    scheduler: str | None = None,
) -> Found:
    """The recipe that is expected to change a model least within a size.

    Args:
        path: the checkpoint.
        adapters: merged into it.
        asked: the size.
        texts: to measure on what each rounding changes.
        target: as ``--target`` names it.
        cache: of the artifact, which may have scales.
        window: in place of the checkpoint's own.
        scheduler: as ``--scheduler`` names it.

    Raises:
        ConfigError: nothing is that small, a text has too few tokens, or the scheduler cannot
            be used.
        CheckpointError: a weight is unreadable or no number.
    """
    with Checkpoint.open(path, adapters) as checkpoint, open_scheduler(scheduler) as opened:
        config = adapted(checkpoint.config, window=window)
        costs = sensitivities(config, checkpoint, texts, scheduler=opened)
    budget = Budget(config, target=find_target(target), cache=cache, costs=costs)
    most = asked.most_bytes(config.num_parameters)
    fit = budget.fit(most=most, flag=asked.option)
    about = BudgetFit(
        option=asked.option,
        most_bytes=most,
        chosen=_point(fit),
        frontier=tuple(map(_point, budget.frontier())),
    )
    recipe = parse_recipe(recipe_text(fit, model=path.resolve().name), name=asked.name)
    return Found(recipe=recipe, weights_bytes=fit.weights_bytes, about=about)


def _point(fit: Fit) -> FrontierPoint:
    return FrontierPoint(bits_per_weight=fit.bits_per_weight, kl=fit.kl)
