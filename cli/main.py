"""The ``tramontane`` command: its parser, and the call of the chosen subcommand. (stdlib only)

A subcommand imports the stages that it needs when it runs, so that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import __version__
from ..console.one_line_parser import OneLineParser
from ..console.processes.stop_on_interrupt import interrupts_stop_runs
from ..console.status import MEANINGS, status_of
from ..runtime.errors import ConfigError
from ..runtime.untrusted.files import refuse_impossible
from .commands import (
    bench,
    budget,
    card,
    export,
    inspect,
    recipes,
    run,
    sbom,
    sign,
    sweep,
    synthesize,
    validate,
    verify,
)

_COMMANDS = (  # in the order of --help
    export,
    run,
    validate,
    inspect,
    recipes,
    budget,
    sweep,
    bench,
    card,
    sign,
    verify,
    sbom,
    synthesize,
)
EXAMPLES = tuple(example for command in _COMMANDS for example in command.EXAMPLES)


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; return one of the exit statuses that ``--help`` lists."""
    return status_of(lambda: _parse_and_run(argv))


def _parse_and_run(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    _refuse_impossible_paths(args)
    name = f"tramontane {args.command}"
    with interrupts_stop_runs():
        return status_of(lambda: int(args.main(args)), name=name, as_json=args.json)


def _refuse_impossible_paths(args: argparse.Namespace) -> None:
    """Refuse paths that no system has, before any work.

    Raises:
        ConfigError: as ``refuse_impossible``.
    """
    for name, value in vars(args).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                refuse_impossible(path, error=ConfigError, option=name)


def parser() -> argparse.ArgumentParser:
    """The parser of the command with all subcommands."""
    examples = [f"  {example}" for example in EXAMPLES]
    statuses = [f"  {number:<4} {meaning}" for number, meaning in MEANINGS.items()]
    whole = OneLineParser(
        prog="tramontane",
        description="Export Mistral-family checkpoints to ONNX, compared with PyTorch.",
        epilog="\n".join(["examples:", *examples, "", "exit status:", *statuses]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = whole.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(subparsers)
    return whole


if __name__ == "__main__":
    raise SystemExit(main())
