"""Plant every fault in a good artifact, run the gate on it, and print the verdicts."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ..console.one_line_parser import OneLineParser
from ..console.progress import track
from ..console.rich_console import rich_console
from ..console.status import status_of
from ..export.formats.checkpoint import Checkpoint
from ..runtime.errors import ContractError
from ..runtime.ort.native_library import find_library
from .catalogue import FAULTS
from .parallel import run_trials
from .planting import MODEL
from .trial import FaultOutcome, Trial


def as_markdown(outcomes: Sequence[FaultOutcome]) -> str:
    """The page docs/faults.md."""
    caught = sum(one.is_caught for one in outcomes)
    explained = sum(one.is_explained for one in outcomes)
    lines = [
        "# Planted faults",
        "",
        "Printed by `make faults`: each fault is one small mutation of a good artifact of the",
        "bundled demo model. The gate sees only figures and the tokens of strings; it compares no",
        "files but the chat templates.",
        "",
        "*In*: the artifact, by its recipe, target and options (`int8`: `KV=int8`).",
        "*Caught by*: the kinds of checks that failed (`docs/parity.md`). *distance*: mean KL and",
        "top-1 agreement; *logits*, *cache*, *greedy*, *batch*: whole sequences; *weights*,",
        "*rounding*, *operators*, *rows*: matrices, what GPTQ's rounding moves, operators, rows",
        "of the cache, layer by layer.",
        "",
        f"**{caught} of {len(outcomes)} are caught, {explained} are explained by the right place "
        "and cause.**",
        "",
        "| fault | in | caught by | first at fault | likely cause |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in outcomes:
        cells = [
            one.fault.name,
            f"`{one.fault.recipe}`",
            ", ".join(one.broken) or "**nothing**",
            one.place,
            one.cause or "no known pattern fits",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Print one line per fault; return 1 if the gate missed one.

    With the bundled demo model, also return 1 if a cause was not found.
    """
    parser = OneLineParser(prog="python -m tramontane.faults", description=__doc__)
    parser.add_argument("--only", default="", help="plant the faults whose name contains this")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="checkpoint (default: the bundled demo model)"
    )
    parser.add_argument(
        "--window",
        type=int,
        help="window of the artifacts, in tokens (64 for a model without one)",
    )
    parser.add_argument(
        "--folder", type=Path, help="folder for the artifacts (default: a temporary one)"
    )
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    args = parser.parse_args(argv)
    faults = [fault for fault in FAULTS if args.only in fault.name]
    if not faults:
        raise ContractError(
            f"--only {args.only}: no fault has such a name, expected a part of one of: "
            + "; ".join(fault.name for fault in FAULTS)
        )
    if any(fault.is_native for fault in faults) and find_library() is None:
        raise ContractError(
            "faults of the native graph: the native library is not installed, which runs it; "
            "make native builds it"
        )
    with Checkpoint.open(args.model) as checkpoint:
        faults = [fault for fault in faults if fault.fits(checkpoint)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tried = run_trials(faults, Trial(folder=folder, model=args.model, window=args.window))
        outcomes = [next(tried) for _ in track(faults, "planting faults")]
    table = Table("fault", "recipe", "caught by", "first at fault", "likely cause", "")
    for one in outcomes:
        mark = "missed" if not one.is_caught else "" if one.is_explained else "not explained"
        kinds = ", ".join(one.broken)
        table.add_row(one.fault.name, one.fault.recipe, kinds, one.place, one.cause, mark)
    rich_console(width=180).print(table)
    caught = sum(one.is_caught for one in outcomes)
    print(f"{args.model.name}: {caught} of {len(outcomes)} faults are caught")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(as_markdown(outcomes), encoding="utf-8")
    is_bundled = args.model == MODEL
    lost = [one for one in outcomes if one.fault.cause and not one.is_explained and is_bundled]
    missed = [one for one in outcomes if not one.is_caught]
    for one in lost + missed:
        print(f"{one.fault.name}: {one.place}: {one.cause or 'unexplained'}", file=sys.stderr)
    return 1 if lost or missed else 0


if __name__ == "__main__":
    raise SystemExit(status_of(main))
