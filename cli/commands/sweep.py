"""``tramontane sweep``: export recipes of models, and compare their quality. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ...console.status import EXIT_FAILED
from ...graphs.quantization.recipes.all_recipes import recipe_names
from ...graphs.targets.all_targets import DEFAULT_TARGET, TARGETS
from ..check_arguments import refuse_short_text
from ..flags import CHECKPOINT_HELP, add_scheduler
from ..subcommand import add_subcommand

EXAMPLES = ("tramontane sweep models/stdlib-5m --quants int8 int4 --out artifacts/sweep",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "sweep",
        "export recipes of models for targets, and write one page of KL over bits",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the artifacts and the page; a sweep that was interrupted goes on there",
    )
    parser.add_argument(
        "--quants",
        nargs="+",
        default=list(recipe_names()),
        metavar="RECIPE",
        help="recipes: names that tramontane recipes prints, or files of your own (default: all)",
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=TARGETS,
        default=[DEFAULT_TARGET],
        help=f"kernels (default: {DEFAULT_TARGET})",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="text to measure on, of the kind that the models were trained on "
        "(default: a bundled one, half code, half story)",
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="check all lengths and all layers of each artifact, which takes much longer",
    )
    add_scheduler(parser, what="where artifacts are exported and measured")


def main(args: Namespace) -> int:
    """Export and measure what is not there yet, and write the page; 1 if a parity check failed."""
    from ...bench.sweep.cases import Asked
    from ...bench.sweep.page import print_tables, write_page
    from ...bench.sweep.run import sweep
    from ...console.tasks.scheduler import open_scheduler
    from ...validate.measurement import GateOptions

    for model in args.models:
        refuse_short_text(model, args.text, [])
    text = {} if args.text is None else {"text": args.text}
    asked = Asked(
        models=tuple(args.models),
        recipes=tuple(args.quants),
        targets=tuple(args.targets),
        out=args.out,
        gate=GateOptions(thorough=args.thorough, **text),
    )
    with open_scheduler(args.scheduler) as scheduler:
        report = sweep(asked, scheduler)
    page = write_page(report, args.out)
    if args.json:
        print(json.dumps({"page": str(page), **report}))
    else:
        print_tables(report)
        print(f"wrote {page}")
    has_failed = any(row["failed_parity"] for one in report["models"] for row in one["rows"])
    return EXIT_FAILED if has_failed else 0
