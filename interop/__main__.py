"""Run artifacts in other runtimes and compare what they give: ``python -m tramontane.interop``.

Each runtime is installed into its own environment, gets the same job, and must give the same
tokens and text.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ..console.one_line_parser import OneLineParser
from ..console.progress import say
from ..console.status import status_of
from ..runtime.errors import ContractError
from .cases import (
    cases,
    stories_in,
)
from .matrix import Matrix
from .matrix_plan import ALL, MatrixPlan, choose
from .rows import MatrixRow, run_rows
from .runtimes import DRIVER, OTHERS, PAGE


def main(argv: list[str] | None = None) -> int:
    """Fill the matrix, print it, return 1 if a cell is wrong or a required runtime absent."""
    args = _parser().parse_args(argv)
    columns = (DRIVER, *OTHERS, PAGE)
    shared = args.shared
    has_stories = shared is not None and all(path.exists() for path in stories_in(shared))
    all_cases = list(cases(args.model, shared if has_stories else None))
    plan = choose(all_cases, columns, only=args.only or (), artifacts=args.artifacts)
    required = set() if args.require == [ALL] else set(args.require)
    for name in sorted(required - set(plan.columns)):
        raise ContractError(
            f"{name}: no such runtime in this run, expected one of {'; '.join(plan.columns)}"
        )
    for line in plan.lines():
        say(line)
    matrix = Matrix(plan.columns)
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(plan, Path(folder), args.screenshots)
        for number, (row, found) in enumerate(zip(rows, run_rows(rows), strict=True), start=1):
            say(f"{row.case.name}: done, {number} of {len(rows)} artifacts")
            for runtime, cell in found:
                matrix.add(row.case.name, runtime, cell)
    is_whole = not args.only and args.artifacts in ("", ALL)
    if is_whole and not has_stories:
        where = f"not in {shared}" if shared else "--shared is not given"
        matrix.leave_out("stories15M", where)
    if args.out is not None:
        _write(args.out, matrix, is_whole=is_whole)
    print(matrix.to_json()) if args.json else matrix.print_report()
    if args.require == [ALL]:
        required |= matrix.absent.keys()
    return 1 if matrix.failures or matrix.absent.keys() & required else 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m tramontane.interop", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint: the bundled demo model")
    parser.add_argument("--shared", type=Path, help="folder with trained models and text")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="RUNTIME",
        help="part of a runtime's name; makes the artifacts that are usual for it (default: all)",
    )
    parser.add_argument(
        "--artifacts",
        default="",
        metavar="NAMES",
        help="words of an artifact's name, as in 'int8 web, fp32 growing', or all",
    )
    parser.add_argument(
        "--require",
        nargs="*",
        default=[],
        metavar="RUNTIME",
        help="fail if this runtime cannot be installed here; or all",
    )
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="pictures of the page")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the matrix as Markdown")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    return parser


def _rows(plan: MatrixPlan, folder: Path, screenshots: Path | None) -> list[MatrixRow]:
    """The plan's artifacts; the page is tested in every way with the first whose cache evicts."""
    evicting = (
        number
        for number, (case, row) in enumerate(plan.rows)
        if PAGE in row and case.has_window and not case.options.cache_choice.grows
    )
    first = next(evicting, None)
    return [
        MatrixRow(
            case=case,
            columns=columns,
            folder=folder / f"artifact-{number}",
            screenshots=screenshots if number == first else None,
            is_brief=number != first,
        )
        for number, (case, columns) in enumerate(plan.rows)
    ]


def _write(out: Path, matrix: Matrix, *, is_whole: bool) -> None:
    if is_whole and not matrix.failures:
        out.write_text(matrix.as_markdown("make interop"), encoding="utf-8")
    else:
        why = "this run has failures" if is_whole else "only runs of everything are recorded"
        say(f"{out}: not updated: {why}")


if __name__ == "__main__":
    raise SystemExit(status_of(main))
