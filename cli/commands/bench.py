"""``tramontane bench``: measure an artifact's speed and memory. (stdlib only)"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..check_arguments import refuse_unwritable
from ..flags import ARTIFACT_HELP, add_threads
from ..subcommand import add_subcommand

EXAMPLES = ("tramontane bench artifacts/stdlib-5m-int8-ort",)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "bench",
        "measure an artifact's speed and memory, and the hardware limits",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help=ARTIFACT_HELP)
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="repetitions, each in a new process (default: %(default)s)",
    )
    add_threads(parser)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot speed and memory by position, in SVG"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to this file too")


def main(args: Namespace) -> int:
    """Measure an artifact's speed and memory, and the limits of the machine."""
    from ...bench.artifact.speed import measure
    from ...bench.artifact.speed_table import plot, print_report

    refuse_unwritable(args, "plot", "out")
    report = measure(args.artifact, rounds=args.rounds, threads=args.threads)
    line = json.dumps(report.as_json())
    print(line) if args.json else print_report(report)
    if args.out is not None:
        args.out.write_text(f"{line}\n", encoding="utf-8")
    if args.plot is not None:
        plot(report, args.plot)
    return 0
