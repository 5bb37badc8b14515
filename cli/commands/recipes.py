"""``tramontane recipes``: print how each recipe stores every matrix. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...console import hints
from ...graphs.quantization.recipes.all_recipes import find_recipe, open_recipe, recipe_names
from ...graphs.targets.all_targets import TARGETS, find_target
from ..subcommand import add_subcommand

if TYPE_CHECKING:
    from ...graphs.quantization.recipes.recipe import Recipe

EXAMPLES = ("tramontane recipes", "tramontane recipes int4")


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "recipes",
        "print the recipes: bits, block, method and scales of each matrix",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="recipe whose file to print: a name, a file of your own, or an artifact "
        "(default: a table of all)",
    )


def main(args: Namespace) -> int:
    """Print a table, or of one recipe its file, which can be copied and changed."""
    if args.recipe is None:
        recipes = [find_recipe(name) for name in recipe_names()]
    elif args.recipe in recipe_names():
        recipes = [find_recipe(args.recipe)]
    else:
        recipes = [open_recipe(Path(args.recipe))]
    if args.json:
        print(json.dumps({one.name: _described(one) for one in recipes}))
    elif args.recipe is not None:
        print(recipes[0].text, end="")
    else:
        _print_table(recipes)
    return 0


def _described(recipe: Recipe) -> dict[str, Any]:
    targets = [name for name in TARGETS if find_target(name).takes(recipe)]
    return {**recipe.content(), "targets": targets, "file": recipe.text}


def _print_table(recipes: list[Recipe]) -> None:
    from rich.table import Table

    from ...console.rich_console import rich_console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("recipe", "matrices", "bits", "block", "method", "scales", "targets"):
        table.add_column(title, no_wrap=True)
    for recipe in recipes:
        for place, rule in enumerate(recipe.rules):
            first = (recipe.name, " ".join(_described(recipe)["targets"]))
            name, targets = first if place == 0 else ("", "")
            stored = (
                (str(rule.block or "--block"), rule.method, rule.scales)
                if rule.is_quantized
                else ("", "float", "")
            )
            table.add_row(name, rule.pattern, str(rule.bits), *stored, targets)
    rich_console(width=100).print(table)
    write_one = f"{hints.suggest('recipes', RECIPE='int4')} > my.toml"
    print(
        f"The first pattern that matches a matrix decides. To begin a recipe of your own:\n"
        f"  {write_one}"
    )
