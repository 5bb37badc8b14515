"""The list of recipes; each is a file of this folder, read when it is asked for. (stdlib only)"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from ....runtime.errors import ConfigError, GraphError
from ....runtime.untrusted.files import refuse_impossible
from .read import parse_recipe, read_recipe
from .recipe import Recipe

if TYPE_CHECKING:
    from ....runtime.manifest import Manifest

RECIPES = (
    "fp32",
    "int8",
    "int8-smooth",
    "int8-small",
    "int4",
    "int4-small",
    "int4-rtn",
    "int4-rtn-small",
    "int8-dynamic",
)
_FOLDER = Path(__file__).parent


def recipe_names() -> tuple[str, ...]:
    """What ``--quant`` may be."""
    return RECIPES


def find_recipe(quant: str | Recipe) -> Recipe:
    """The recipe of a name; one's own is what it is.

    Raises:
        GraphError: there is none.
    """
    if isinstance(quant, Recipe):
        return quant
    if quant not in RECIPES:
        raise GraphError(
            f"--quant {quant}: unknown; expected one of {', '.join(RECIPES)}, or a file of your "
            "own by --recipe"
        )
    return _read(quant)


def open_recipe(path: Path) -> Recipe:
    """The recipe of one's own file, or that of an artifact.

    Raises:
        ConfigError: it cannot be read, or is no recipe.
        ContractError: a folder that is no artifact.
    """
    refuse_impossible(path, error=ConfigError)
    if not path.is_dir():
        return read_recipe(path)
    from ....runtime.manifest import read_manifest

    return dataclasses.replace(recipe_of(read_manifest(path)), path=str(path))


def recipe_of(manifest: Manifest) -> Recipe:
    """The recipe of an artifact.

    Raises:
        ConfigError: what it holds is no recipe.
        GraphError: it holds none, as older ones do, and its name is unknown.
    """
    if manifest.recipe is None:
        return find_recipe(manifest.quant)
    return parse_recipe(manifest.recipe, name=manifest.quant)


def recipe_of_bits(bits: int) -> Recipe:
    """The recipe whose bounds fit another exporter's graph, by the fewest bits of its weights."""
    plain = [one for one in map(find_recipe, RECIPES) if not one.observes_activations]
    coarsest = min(plain, key=lambda one: one.fewest_bits)
    return next((one for one in plain if one.fewest_bits == bits), coarsest)


@functools.cache
def _read(name: str) -> Recipe:
    path = _FOLDER / f"{name}.toml"
    return parse_recipe(path.read_text(encoding="utf-8"), name=name)
