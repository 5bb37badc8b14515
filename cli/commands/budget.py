"""``tramontane budget``: write a recipe for a size. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...console import hints
from ...console.rows import print_rows
from ...graphs.targets.known import DEFAULT_TARGET, TARGETS
from ...runtime.errors import ConfigError
from ...runtime.sizes import format_bytes, parse_size
from ..flags import CHECKPOINT_HELP, add_adapter
from ..subcommand import add_subcommand

if TYPE_CHECKING:
    from ...export.config import MistralConfig

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
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", metavar="SIZE", help="of the files of weights, e.g. 3.8GB")
    size.add_argument("--bits", type=float, metavar="N", help="per weight, all that ships")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="recipe to write, with a plot"
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default=DEFAULT_TARGET,
        help="kernels (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration-text",
        type=Path,
        metavar="FILE",
        help="text to measure on what each rounding changes (default: a bundled one)",
    )


def main(args: Namespace) -> int:
    """Measure each matrix unless it was measured before, choose, and write the recipe."""
    from ...console.text_file import read_text
    from ...export.budget.fit import Budget, plot, recipe_text, sensitivities
    from ...export.cache_choice import WINDOWED
    from ...export.calibrate.tokens import TEXT
    from ...export.formats.checkpoint import Checkpoint
    from ...graphs.targets.known import find_target

    text = read_text(args.calibration_text or TEXT, flag="--calibration-text")
    with Checkpoint.open(args.checkpoint, args.adapter) as checkpoint:
        config, model = checkpoint.config, args.checkpoint.resolve().name
        most, flag = _budget(args, config)
        costs = sensitivities(config, checkpoint, text)
        budget = Budget(config, target=find_target(args.target), cache=WINDOWED, costs=costs)
        fit = budget.fit(most=most, flag=flag)
        frontier = budget.frontier()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(recipe_text(fit, model=model), encoding="utf-8")
    plotted = args.out.with_suffix(".svg")
    plot(frontier, fit, plotted, model=model)
    found = {
        "bits per weight": round(fit.bits_per_weight, 3),
        "expected KL": float(f"{fit.kl:.3g}"),
    }
    if args.json:
        points = [{"bits": one.bits_per_weight, "kl": one.kl} for one in frontier]
        bytes_ = {"weights_bytes": fit.weights_bytes, "recipe": str(args.out)}
        print(json.dumps({**found, **bytes_, "frontier": points}))
        return 0
    print_rows({**found, "weights": format_bytes(fit.weights_bytes), "plot": str(plotted)})
    export = hints.suggest("export", MODEL=args.checkpoint, RECIPE=args.out, TARGET=args.target)
    print(f"\nwrote {args.out}; try\n  {export}")
    return 0


def _budget(args: Namespace, config: MistralConfig) -> tuple[int, str]:
    """Bytes of the files of weights, and the option that says so.

    Raises:
        ConfigError: no option says so, or it is no size.
    """
    if args.size is not None:
        return parse_size(args.size, flag="--size"), f"--size {args.size}"
    if args.bits is None:
        raise ConfigError("--size, --bits: neither is given, expected one of them; try --bits 5")
    if not 1 <= args.bits <= 32:
        raise ConfigError(f"--bits {args.bits:g}: expected 1 to 32 bits a weight; try 5")
    return int(args.bits * config.num_parameters / 8), f"--bits {args.bits:g}"
