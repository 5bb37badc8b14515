"""Fuzz every reader for a time; print how the cases ended, and keep what should not have."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path

from ..console.status import status_of
from ..runtime.errors import ContractError
from .readers import READERS
from .trial import CRASHED, HUNG, READ, TYPED, UNTYPED, Case, Outcome, Worker, smallest, until

_BAD = (UNTYPED, HUNG, CRASHED)
Counts = dict[str, Counter[str]]


def main(argv: list[str] | None = None) -> int:
    """Print one line per reader; return 1 if a case was neither read nor refused as it should."""
    parser = argparse.ArgumentParser(prog="python -m tramontane.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each")
    parser.add_argument("--only", default="", help="fuzz the readers whose name contains this")
    parser.add_argument(
        "--kept", type=Path, default=Path("build/fuzz"), help="folder for findings (%(default)s)"
    )
    parser.add_argument("--page", type=Path, help="write the table as Markdown")
    args = parser.parse_args(argv)
    names = [name for name in READERS if args.only in name]
    if not names:
        raise ContractError(f"--only {args.only}: expected a part of one of {', '.join(READERS)}")
    counts: Counts = {name: Counter() for name in names}
    findings: dict[tuple[str, Outcome], Case] = {}
    worker, end = Worker(), until(args.seconds)
    last = args.first
    try:
        for last in itertools.count(args.first):
            for name in names:
                case = Case(reader=name, seed=args.seed, number=last)
                outcome, count, _ = worker.try_(case)
                counts[name][outcome.kind] += 1
                if outcome.kind in _BAD and (name, outcome) not in findings:
                    findings[name, outcome] = case
                    _keep(args.kept, worker, case, outcome, count)
            if time.monotonic() > end:
                break
    finally:
        worker.close()
    table = as_markdown(counts, seed=args.seed, first=args.first, last=last)
    print(table)
    for (name, outcome), case in findings.items():
        print(f"{outcome.kind}: {name}, case {case.number}: {outcome.detail}")
    if args.page is not None:
        args.page.write_text(table, encoding="utf-8")
    print(json.dumps({name: dict(found) for name, found in counts.items()}))
    return int(bool(findings))


def _keep(folder: Path, worker: Worker, case: Case, outcome: Outcome, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.kind == UNTYPED:
        content = smallest(worker, case, outcome, count)
        (folder / f"{case.seed}-{case.number}-{case.reader}").write_bytes(content)


def as_markdown(counts: Counts, *, seed: int, first: int, last: int) -> str:
    """The page docs/reliability.md."""
    lines = [
        "# Reliability",
        "",
        "Printed by `make fuzz`: each case is a good file with one to four mutations. It is read",
        "as the commands read it, and must be read, or refused by one line of a typed error,",
        "within 10 s.",
        "",
        f"Seed {seed}, cases {first} to {last} of each file.",
        "",
        "| file | cases | read | typed error | untyped | hung | crashed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in counts.items():
        cells = [found.total(), *(found[kind] for kind in (READ, TYPED, *_BAD))]
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(status_of(main))
