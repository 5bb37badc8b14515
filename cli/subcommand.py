"""What the parsers of all subcommands have in common. (stdlib only)"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any


def add_subcommand(
    subparsers: Any,
    name: str,
    summary: str,
    *,
    examples: Sequence[str],
    main: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add the parser of a subcommand, with ``--json``; its own arguments are still to be added.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.
        name: the subcommand.
        summary: what it does, beginning with a small letter and without a full stop.
        examples: command lines, shown below its options.
        main: runs the subcommand and returns its exit status.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="\n".join(["example:", *(f"  {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(command=name, main=main)
    return parser
