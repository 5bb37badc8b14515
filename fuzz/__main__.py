"""Fuzz every reader for a time; print how the cases ended, and keep what should not have.

The next run of a seed begins after the last case of this one. Where atheris is installed, half of
the time is spent on coverage-guided fuzzing, with the same time for each reader.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path

from ..console.one_line_parser import OneLineParser
from ..console.option_numbers import seconds, whole
from ..console.status import status_of
from ..runtime.errors import ContractError
from . import guided
from .next_cases import next_case, note_next
from .readers import READERS
from .trial import (
    CRASHED,
    HUNG,
    LARGE,
    READ,
    TYPED,
    UNTYPED,
    FuzzCase,
    FuzzOutcome,
    Worker,
    smallest,
    until,
)

LONGEST_S = 10**6  # of a run
LARGEST = 10**9  # seed and case: with what is added, libFuzzer's seeds have 32 bits
_BAD = (UNTYPED, HUNG, CRASHED, LARGE)
Counts = dict[str, Counter[str]]


def main(argv: list[str] | None = None) -> int:
    """Print one line per reader; return 1 if a case was neither read nor refused as it should."""
    parser = OneLineParser(prog="python -m tramontane.fuzz", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=seconds(most=LONGEST_S),
        default=120.0,
        help="how long (%(default)g)",
    )
    number = whole(least=0, most=LARGEST)
    parser.add_argument("--seed", type=number, default=0, help="of the mutations (%(default)s)")
    parser.add_argument(
        "--first", type=number, help="number of the first case (default: where the last run ended)"
    )
    parser.add_argument("--only", default="", help="fuzz the readers whose name contains this")
    parser.add_argument(
        "--kept", type=Path, default=Path("build/fuzz"), help="folder for findings (%(default)s)"
    )
    args = parser.parse_args(argv)
    names = [name for name in READERS if args.only in name]
    if not names:
        raise ContractError(f"--only {args.only}: expected a part of one of {', '.join(READERS)}")
    share = args.seconds / 2 if guided.is_installed() else args.seconds
    counts: Counts = {name: Counter() for name in names}
    findings: dict[tuple[str, FuzzOutcome], FuzzCase] = {}
    worker, end = Worker(), until(share)
    first = args.first
    if first is None:
        first = next_case(args.kept, names, seed=args.seed)
    last = done = first
    try:
        for last in itertools.count(first):
            for name in names:
                case = FuzzCase(reader=name, seed=args.seed, number=last)
                outcome, count, _ = worker.try_(case)
                counts[name][outcome.kind] += 1
                if outcome.kind in _BAD and (name, outcome) not in findings:
                    findings[name, outcome] = case
                    _keep(args.kept, worker, case, outcome, count)
            done = last + 1
            if time.monotonic() > end:
                break
    finally:
        worker.close()
        note_next(args.kept, names, done, seed=args.seed)
    print(as_markdown(counts, seed=args.seed, first=first, last=last))
    by_coverage: Counts = {}
    if guided.is_installed():
        by_coverage = guided.guide_each(names, seconds=share, seed=args.seed, folder=args.kept)
    for name, found in by_coverage.items():
        print(
            f"{name}: {found['runs']} inputs guided by coverage, "
            f"{found['findings']} kinds of findings in {args.kept / 'found'}"
        )
    for (name, outcome), case in findings.items():
        print(f"{outcome.kind}: {name}, case {case.number}: {outcome.detail}")
    print(json.dumps({name: dict(found) for name, found in counts.items()}))
    return int(bool(findings) or any(found["findings"] for found in by_coverage.values()))


def _keep(folder: Path, worker: Worker, case: FuzzCase, outcome: FuzzOutcome, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.kind == UNTYPED:
        content = smallest(worker, case, outcome, count)
        (folder / f"{case.seed}-{case.number}-{case.reader}").write_bytes(content)


def as_markdown(counts: Counts, *, seed: int, first: int, last: int) -> str:
    """How the cases of each file ended."""
    lines = [
        f"Seed {seed}, cases {first} to {last} of each file, mutated.",
        "",
        f"| file | cases | {' | '.join((READ, TYPED, *_BAD))} |",
        f"| --- | {' | '.join(['---'] * (3 + len(_BAD)))} |",
    ]
    for name, found in counts.items():
        cells = [found.total(), *(found[kind] for kind in (READ, TYPED, *_BAD))]
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(status_of(main))
