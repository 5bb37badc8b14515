"""The artifacts of a sweep: every recipe of every model for every target."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...export.build import weights_code_digest
from ...export.code_digest import code_digest
from ...export.fingerprint import tool_versions
from ...export.formats.checkpoint import Checkpoint
from ...export.options import ExportOptions, decisive
from ...graphs.quantization.recipes.all_recipes import find_recipe, open_recipe, recipe_names
from ...graphs.quantization.recipes.recipe import Recipe
from ...graphs.targets.all_targets import find_target
from ...runtime.errors import ConfigError
from ...runtime.manifest import describe_file
from ...runtime.ort import ort_session
from ...validate import run_gate
from ...validate.measurement import GateOptions
from ...validate.sequences.tokens import SAMPLE


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a sweep is asked for."""

    models: tuple[Path, ...]  # checkpoints
    recipes: tuple[str, ...]  # as ``find_word`` takes them
    targets: tuple[str, ...]  # as in ``graphs/targets/all_targets.py``
    out: Path  # the folder of the artifacts and of the page
    gate: GateOptions = field(default_factory=GateOptions)  # its text, and whether it is thorough


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepCase:
    """One artifact; a task carries it to the process that it runs in."""

    model: Path  # the checkpoint; like all paths here without links, and from the root
    recipe: Recipe
    target: str
    artifact: Path
    text: Path | None  # to measure parity on; None: the bundled one
    thorough: bool
    source: dict[str, str]  # sha256 of the checkpoint's files, by name
    text_sha256: str
    tools: dict[str, str]  # versions by package
    code: str  # digest of the code that exports and measures
    threads: int  # to compute with: other numbers of them add up sums in another order

    @property
    def name(self) -> str:
        """Within the rows of its model."""
        return f"{self.target} {self.recipe.name}"

    @property
    def made_of(self) -> str:
        """Digest of all that decides the artifact and its figures."""
        options = decisive(ExportOptions(quant=self.recipe, target=self.target))
        measured = [self.text_sha256, self.thorough]
        content = [self.source, options, measured, self.tools, self.code, self.threads]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def lacks_kernels(self) -> str | None:
        """Why the target cannot run the recipe; None where it can."""
        return find_target(self.target).lacks_kernels(self.recipe)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCases:
    """The cases of one model."""

    model: str
    num_parameters: int
    cases: tuple[SweepCase, ...]


def find_word(word: str) -> Recipe:
    """A recipe by its name, or by the path of one's own file or of an artifact.

    Raises:
        ConfigError: it is neither.
        ContractError: a folder that is no artifact.
    """
    if word in recipe_names():
        return find_recipe(word)
    if not Path(word).exists():
        raise ConfigError(
            f"--quants {word}: unknown, expected some of {', '.join(recipe_names())}, or files of "
            "your own; tramontane recipes prints them"
        )
    found = open_recipe(Path(word))
    return dataclasses.replace(found, path=str(Path(word).resolve()))


def cases_of(asked: Asked) -> list[ModelCases]:
    """The cases by model, in the order of the recipes and then of the targets; each once.

    Raises:
        ConfigError: two models have one name, or a recipe is unknown.
        CheckpointError: a model is no checkpoint, or a file of it is unreadable.
    """
    recipes = tuple(dict.fromkeys(map(find_word, asked.recipes)))
    models = tuple(dict.fromkeys(model.resolve() for model in asked.models))
    _refuse_one_name([(one.name, str(one)) for one in models])
    _refuse_one_name([(one.name, one.path or f"recipe {one.name}") for one in recipes])
    return [_cases_of_one(model, recipes, asked) for model in models]


def code() -> str:
    """Digest of the code that exports and measures."""
    return f"{weights_code_digest()} {code_digest(run_gate.__file__)}"


def _refuse_one_name(named: Sequence[tuple[str, str]]) -> None:
    """Refuse two models or two recipes, each with its name and its place, of one name.

    Raises:
        ConfigError: naming both.
    """
    places: dict[str, str] = {}
    for name, place in named:
        if name in places:
            raise ConfigError(
                f"{place}: has the name of {places[name]}, expected names that differ, since "
                "artifacts are named by them; sweep them into two folders, or rename one"
            )
        places[name] = place


def _cases_of_one(model: Path, recipes: Sequence[Recipe], asked: Asked) -> ModelCases:
    with Checkpoint.open(model) as checkpoint:
        num_parameters, source = checkpoint.config.num_parameters, checkpoint.hashes()
    own_code, tools, gate = code(), tool_versions(), asked.gate
    text_sha256 = describe_file(gate.text)["sha256"]
    cases = tuple(
        SweepCase(
            model=model,
            recipe=recipe,
            target=target,
            artifact=asked.out.resolve() / f"{model.name}-{recipe.name}-{target}",
            text=None if gate.text == SAMPLE else gate.text.resolve(),
            thorough=gate.thorough,
            source=source,
            text_sha256=text_sha256,
            tools=tools,
            code=own_code,
            threads=ort_session.physical_cores(),
        )
        for recipe in recipes
        for target in dict.fromkeys(asked.targets)
    )
    return ModelCases(model=model.name, num_parameters=num_parameters, cases=cases)
