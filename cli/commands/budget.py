"""``tramontane budget``: write a recipe for a size. (stdlib only)"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from ...console import hints
from ...console.rows import print_rows
from ...export.budget.asked import asked_for
from ...runtime.durable import replace_file
from ...runtime.errors import ConfigError
from ...runtime.sizes import format_bytes
from ...runtime.untrusted.files import refuse_impossible
from ..flags import (
    CHECKPOINT_HELP,
    add_adapter,
    add_calibration_text,
    add_scheduler,
    add_size,
    add_target,
)
from ..subcommand import add_subcommand

EXAMPLES = ("tramontane budget models/stdlib-5m --bits 5 --out my.toml",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "budget",
        "write the recipe that is expected to change a model least within a size",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    add_adapter(parser)
    add_size(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="recipe to write, with a plot"
    )
    add_target(parser)
    add_calibration_text(parser, what="text on which the effect of each rounding is measured")
    add_scheduler(parser, what="where matrices are measured")


def main(args: Namespace) -> int:
    """Measure each matrix unless it was measured before, choose, and write the recipe."""
    from ...export.budget.find import find_for_size
    from ...export.budget.fit import plot
    from ...export.cache_choice import WINDOWED
    from ...export.options import read_texts

    plotted = args.out.with_suffix(".svg")
    _refuse_target(args.out, plotted)
    asked, model = asked_for(size=args.size, bits=args.bits), args.checkpoint.resolve().name
    found = find_for_size(
        args.checkpoint,
        args.adapter,
        asked,
        read_texts(args.calibration_text),
        target=args.target,
        cache=WINDOWED,
        scheduler=args.scheduler,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".tramontane-") as folder:
        recipe, picture = Path(folder) / args.out.name, Path(folder) / plotted.name
        recipe.write_text(found.recipe.text, encoding="utf-8")
        plot(found.about, picture, model=model)
        replace_file(picture, plotted)
        replace_file(recipe, args.out)
    chosen = found.about.chosen
    summary = {
        "bits per weight": round(chosen.bits_per_weight, 3),
        "expected KL": float(f"{chosen.kl:.3g}"),
    }
    if args.json:
        points = [{"bits": one.bits_per_weight, "kl": one.kl} for one in found.about.frontier]
        bytes_ = {"weights_bytes": found.weights_bytes, "recipe": str(args.out)}
        print(json.dumps({**summary, **bytes_, "frontier": points}))
        return 0
    print_rows({**summary, "weights": format_bytes(found.weights_bytes), "plot": str(plotted)})
    export = hints.suggest("export", MODEL=args.checkpoint, RECIPE=args.out, TARGET=args.target)
    print(f"\nwrote {args.out}; try\n  {export}")
    return 0


def _refuse_target(path: Path, plotted: Path) -> None:
    """Refuse, before anything is measured, names that a recipe and its plot cannot both get."""
    refuse_impossible(path, error=ConfigError, option="--out")
    if path == plotted:
        raise ConfigError(
            f"--out {path}: is the name of the plot, expected that of a recipe, such as my.toml; "
            "give it another suffix"
        )
    for each in (path, plotted):
        if each.exists() and not each.is_file():
            raise ConfigError(
                f"--out {path}: {each} is no regular file, expected a new name or a file to "
                "replace; name another one"
            )
