"""Kill exports, fill their disks, mutate and damage files; continue from the last run."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..console.one_line_parser import OneLineParser
from ..console.option_numbers import whole
from ..console.processes.process_per_core import usable_cores
from ..console.status import status_of
from ..fuzz.good_files import MODEL
from ..fuzz.readers import READERS
from ..fuzz.trial import FuzzCase, Worker
from .exports import Exports, exports_of
from .flips import flip
from .full_disk import enter_namespace, fill, may_mount
from .kills import Wholes, chain
from .outcomes import FINE, Outcome, Record
from .page import as_markdown
from .side_by_side import count

_MODULE = "tramontane.torture"
LARGEST = 10**9  # number of cases, and seed
_MOST_JOBS = 256  # each has processes of its own
_DISKS = 5  # every so-manieth chain is a full disk
_FLIPPED = "int8, sharded"


def main(argv: list[str] | None = None) -> int:
    """Print the page of all cases so far; return 1 if one ended as it should not."""
    parser = OneLineParser(prog=f"python -m {_MODULE}", description=__doc__)
    number = whole(least=0, most=LARGEST)  # of cases, those of earlier runs included
    parser.add_argument(
        "--kills", type=number, default=1000, help="signals and full disks (%(default)s)"
    )
    parser.add_argument(
        "--mutations", type=number, default=100_000, help="mutated files (%(default)s)"
    )
    parser.add_argument("--flips", type=number, default=1000, help="flipped bits (%(default)s)")
    parser.add_argument("--seed", type=number, default=0, help="of what is drawn (%(default)s)")
    parser.add_argument(
        "--jobs",
        type=whole(least=1, most=_MOST_JOBS),
        default=len(usable_cores()) or 1,
        help="cases that run at once (default: one for each core, %(default)s)",
    )
    parser.add_argument(
        "--record", type=Path, default=Path("build/torture"), help="folder of counts (%(default)s)"
    )
    parser.add_argument("--page", type=Path, help="write the page, as Markdown")
    args = parser.parse_args(argv)
    if args.kills:
        enter_namespace(_MODULE, sys.argv[1:] if argv is None else argv)
    record = Record.open(args.record / f"seed-{args.seed}.json")
    try:
        _mutate(record, most=args.mutations, seed=args.seed, jobs=args.jobs)
        _end_exports(record, kills=args.kills, flips=args.flips, seed=args.seed, jobs=args.jobs)
    finally:
        record.save()
    page = as_markdown(record, seed=args.seed)
    print(page)
    for finding in record.findings:
        print(finding)
    if args.page is not None:
        args.page.write_text(page, encoding="utf-8")
    parts = ("kills", "mutations", "flips")
    print(json.dumps({"bad": record.bad(), **{part: record.total(part) for part in parts}}))
    return int(record.bad() > 0)


def _mutate(record: Record, *, most: int, seed: int, jobs: int) -> None:
    if record.total("mutations") >= most:
        return
    names, workers = list(READERS), [Worker() for _ in range(jobs)]

    def mutate(number: int, worker: Worker) -> Iterator[Outcome]:
        name = names[number % len(names)]
        outcome, _, _ = worker.try_(FuzzCase(reader=name, seed=seed, number=number))
        kind = FINE if outcome.kind == "read" else outcome.kind
        yield Outcome(case=name, kind=kind, detail=f"case {number}: {outcome.detail}")

    try:
        count(record, "mutations", most=most, tools=workers, run=mutate)
    finally:
        for worker in workers:
            worker.close()


def _end_exports(record: Record, *, kills: int, flips: int, seed: int, jobs: int) -> None:
    if record.total("kills") >= kills and record.total("flips") >= flips:
        return
    with (
        tempfile.TemporaryDirectory(prefix="tramontane-torture-") as temporary,
        exports_of(MODEL, Path(temporary), count=jobs) as servers,
    ):
        work, wholes = Path(temporary), Wholes(Path(temporary))

        def damage(number: int, server: Exports) -> Iterator[Outcome]:
            wholes.of(_FLIPPED, server)
            yield flip(wholes.path(_FLIPPED), seed=seed, number=number)

        def end(number: int, server: Exports) -> Iterator[Outcome]:
            """A chain of kills, or a full disk."""
            case = work / f"case-{number}"
            if number % _DISKS == 0 and not may_mount():
                return
            case.mkdir()
            if number % _DISKS == 0:
                yield fill(wholes, server, case, seed=seed, number=number)
            else:
                yield from chain(wholes, server, case, seed=seed, number=number)
            shutil.rmtree(case)

        count(record, "flips", most=flips, tools=servers[:1], run=damage)  # all of one artifact
        count(record, "kills", most=kills, tools=servers, run=end)


if __name__ == "__main__":
    sys.exit(status_of(main))
