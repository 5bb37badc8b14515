"""Makes a recipe for a size: measures what each rounding costs, and chooses what fits best."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ...console.plot_file import plot_file
from ...console.progress import say
from ...console.tasks.scheduler import Scheduler
from ...graphs.quantization.recipes.recipe import DEFAULT_BLOCK, Recipe
from ...graphs.targets.target import Target
from ...runtime.budget_fit import BudgetFit
from ...runtime.durable import replace_file
from ...runtime.errors import ConfigError, ContractError
from ...runtime.sizes import bits_per_weight, format_bytes
from ..cache_choice import CacheChoice
from ..calibrate.tokens import calibration_tokens, digest_of
from ..code_digest import code_digest
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from ..planning.planned_weights import PlannedWeights
from .assign import assign
from .candidates import (
    CANDIDATES,
    Choice,
    places_on,
    recipe_of_choice,
    scheme_for,
    sizes,
    total_size,
)
from .kept_costs import read_table
from .measure import measure
from .sensitivity import Costs

DEFAULT_TOKENS = 2048  # of the calibration text, to measure on
_POINTS = 24  # of the frontier
_SUFFIX = ".weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The best choice for a size."""

    choice: Choice
    weights_bytes: int  # of the files of weights
    bits_per_weight: float
    kl: float  # expected, nats: the sum of what each rounding changes by itself


class Budget:
    """The costs and sizes of one checkpoint's matrices on one target."""

    def __init__(
        self,
        config: MistralConfig,
        *,
        target: Target,
        cache: CacheChoice,
        costs: dict[str, list[float]],
    ) -> None:
        """Add up sizes; ``costs`` is what ``sensitivities`` returned."""
        places = places_on(target)
        self._config, self._candidates = config, [CANDIDATES[place] for place in places]
        self._costs = {name: [each[place] for place in places] for name, each in costs.items()}
        recipe = recipe_of_choice(self._all(0), name="all")
        self._weights = PlannedWeights(
            config=config, target=target, recipe=recipe, block=DEFAULT_BLOCK, cache=cache
        )
        self._sizes = sizes(self._weights, list(costs), places)
        smallest = sum(each[0] for each in self._sizes.values())
        self._others = total_size(self._weights, self._all(0)) - smallest

    def fit(self, *, most: int, flag: str) -> Fit:
        """The best choice within some bytes of files of weights.

        Raises:
            ConfigError: naming the flag, if nothing is that small.
        """
        limit = most - self._others
        for _ in range(16):  # what stacked matrices save is known only when all is chosen
            found = assign(self._costs, self._sizes, most=limit)
            if found is None:
                least = self._smallest()
                raise ConfigError(
                    f"{flag}: {format_bytes(most)} of weights, expected at least "
                    f"{format_bytes(least.weights_bytes)} ({least.bits_per_weight:.2f} bits a "
                    "weight), the smallest that the target's kernels take; give at least --size "
                    f"{least.weights_bytes}"
                )
            fitted = self._fitted(found)
            if fitted.weights_bytes <= most:
                return fitted
            size = sum(self._sizes[name][place] for name, place in found.items())
            limit = min(limit - (fitted.weights_bytes - most), size - 1)  # another choice
        raise ConfigError(f"{flag}: no choice of {format_bytes(most)} was found; give a bit more")

    def frontier(self) -> list[Fit]:
        """The best choices from the smallest to the largest size."""
        least = sum(min(each) for each in self._sizes.values())
        most = sum(max(each) for each in self._sizes.values())
        found = []
        for point in range(_POINTS):
            size = least + (most - least) * point // (_POINTS - 1)
            chosen = assign(self._costs, self._sizes, most=size + 1)
            if chosen is not None:
                found.append(self._fitted(chosen))
        return found

    def _smallest(self) -> Fit:
        """Each matrix in its fewest bytes; or all alike, since such matrices are stacked."""
        each = {name: sizes.index(min(sizes)) for name, sizes in self._sizes.items()}
        alike = [dict.fromkeys(self._costs, place) for place in range(len(self._candidates))]
        return min(map(self._fitted, [each, *alike]), key=lambda one: one.weights_bytes)

    def _all(self, place: int) -> Choice:
        return {name: scheme_for(name, self._candidates[place]) for name in self._costs}

    def _fitted(self, places: dict[str, int]) -> Fit:
        choice = {name: scheme_for(name, self._candidates[places[name]]) for name in self._costs}
        weights_bytes = total_size(self._weights, choice)
        return Fit(
            choice=choice,
            weights_bytes=weights_bytes,
            bits_per_weight=bits_per_weight(weights_bytes, self._config.num_parameters),
            kl=sum(self._costs[name][place] for name, place in places.items()),
        )


def sensitivities(
    config: MistralConfig,
    checkpoint: Checkpoint,
    texts: tuple[str, ...],
    *,
    tokens: int = DEFAULT_TOKENS,
    scheduler: Scheduler | None = None,
) -> dict[str, list[float]]:
    """What ``measure`` finds on texts; found once, and then read from the user's cache.

    Args:
        config: of the model.
        checkpoint: what the parameters are read from.
        texts: to run the model on.
        tokens: of all texts, at most.
        scheduler: what runs the tasks, all with the same results; None: this process.

    Raises:
        ConfigError: a text has too few tokens, or a worker cannot read the checkpoint.
        CheckpointError: a weight is unreadable or no number.
    """
    made_of = {
        "config": dataclasses.asdict(config),
        "files": checkpoint.hashes(),
        "text": digest_of(texts),
        "tokens": tokens,
        "candidates": [dataclasses.asdict(one) for one in CANDIDATES],
        "code": code_digest(str(Path(__file__).with_name("measure.py"))),
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    path = _folder() / f"{key}.json"
    if (kept := _kept(path, config)) is not None:
        return kept
    sequences = calibration_tokens(config, checkpoint, texts, most=tokens).text
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = path.with_suffix(".parts")
    found = measure(config, checkpoint, sequences, scheduler=scheduler, kept=parts)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    replace_file(partial, path)
    parts.unlink(missing_ok=True)
    return found


def _kept(path: Path, config: MistralConfig) -> Costs | None:
    """What an earlier run found; None where none did, or the file is damaged."""
    if not path.is_file():
        return None
    try:
        return read_table(path, config)
    except ContractError as error:
        say(str(error))
        return None


def recipe_text(fit: Fit, *, model: str) -> str:
    """The file of a recipe for a fit."""
    recipe: Recipe = recipe_of_choice(fit.choice, name="fit")
    names = [f'"{rule.pattern}"' for rule in recipe.rules]
    width = max(map(len, names))
    lines = [
        f"{name:{width}} = {{ bits = {rule.bits}, block = {rule.block:3}, "
        f'method = "{rule.method}", scales = "{rule.scales}" }}'
        for name, rule in zip(names, recipe.rules, strict=True)
    ]
    about = f"{fit.bits_per_weight:.2f} bits a weight, {fit.kl:.2e} nats expected"
    head = [f"# {model}: {about}.", 'finer = "int8"', "", "[matrices]"]
    return "\n".join([*head, *lines]) + "\n"


def plot(about: BudgetFit, path: Path, *, model: str) -> None:
    """Draw expected KL over size, and the choice."""
    with plot_file(path, size=(8, 4.5)) as [axes]:
        axes.set(
            title=f"{model}: expected mean KL, nats",
            xlabel="bits per weight, over all files of weights",
            yscale="log",
        )
        points = [(one.bits_per_weight, max(one.kl, 1e-9)) for one in about.frontier]
        axes.plot(*zip(*points, strict=True), color="#5b6675", marker=".")
        chosen = about.chosen
        axes.plot([chosen.bits_per_weight], [max(chosen.kl, 1e-9)], "o", color="#1f5f8b")


def _folder() -> Path:
    return Path(platformdirs.user_cache_dir("tramontane", appauthor=False)) / "sensitivity"
