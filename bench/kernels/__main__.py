"""Measure each kernel that a step or a prefill could use, alone.

Shapes are those of Mistral-7B's layers: one token's attention over a full window, and the matmul
with a matrix of the MLP, for one position and for a prompt. All run in turns, with the machine's
limits, so that other load on the machine affects all. The fastest kernel of each kind bounds what
an artifact can reach.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from ...console.one_line_parser import OneLineParser
from ...console.progress import track
from ...console.rich_console import rich_console
from ...console.status import status_of
from ...runtime.errors import ContractError
from ...runtime.ort.ort_session import physical_cores
from .. import option_types
from ..limits import multiply_rate, read_rate
from ..machine import machine
from ..samples import Spread, seconds_of_runs
from . import graphs
from .graphs import COPIES, Kernel

ROUNDS, TIMES = 9, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Speed of one kernel."""

    kernel: Kernel
    seconds: Spread  # of one copy
    of_reading: Spread  # share of the memory read rate
    of_multiplying: Spread  # share of the int8 multiply rate


def main(argv: list[str] | None = None) -> int:
    """Time all kernels in turns; print a table, or one line of JSON."""
    options = OneLineParser(prog="python -m tramontane.bench.kernels", description=__doc__)
    options.add_argument(
        "--rounds", type=option_types.ROUNDS, default=ROUNDS, help="(%(default)s)"
    )
    options.add_argument(
        "--threads", type=option_types.THREADS, default=physical_cores(), help="(%(default)s)"
    )
    options.add_argument("--out", type=Path, metavar="FILE", help="write the JSON")
    options.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    args = options.parse_args(argv)
    for flag, given in (("--rounds", args.rounds), ("--threads", args.threads)):
        if given < 1:
            raise ContractError(f"{flag} {given}: expected 1 or more")
    kinds = (graphs.attentions, graphs.products, graphs.gates)
    kernels = [kernel for kind in kinds for kernel in kind(args.threads)]
    found, limits = measure(kernels, rounds=args.rounds, threads=args.threads)
    line = to_json(found, limits, machine=machine(args.threads), rounds=args.rounds)
    if args.out is not None:
        args.out.write_text(f"{line}\n", encoding="utf-8")
    print(line) if args.json else print_table(found)
    return 0


def print_table(found: Sequence[Found]) -> None:
    """The table: time of each kernel, and its share of the machine's limits."""
    limits = ("of memory's rate", "of the multiply rate")
    table = Table("what", "kernel", "ms (median)", "lowest to highest", *limits)
    for one in found:
        table.add_row(one.kernel.does, one.kernel.way, *_cells(one))
    rich_console(width=130).print(table)


def measure(
    kernels: Sequence[Kernel], *, rounds: int, threads: int
) -> tuple[list[Found], dict[str, Spread]]:
    """Time kernels in turns; shares are of limits measured in the same round.

    The memory read rate is measured before each kernel: it may double within a second.
    """
    seconds: list[list[float]] = [[] for _ in kernels]
    read: list[list[float]] = [[] for _ in kernels]
    multiply: list[float] = []
    for _ in track(range(rounds), "timing kernels, round by round"):
        multiply.append(multiply_rate(threads))
        for kernel, times, rates in zip(kernels, seconds, read, strict=True):
            rates.append(read_rate(threads))
            times.append(median(seconds_of_runs(kernel.run, runs=TIMES)) / COPIES)
    found = [
        Found(
            kernel=kernel,
            seconds=Spread(values=tuple(times)),
            of_reading=_shares(kernel.read_bytes, times, rates),
            of_multiplying=_shares(kernel.multiplications, times, multiply),
        )
        for kernel, times, rates in zip(kernels, seconds, read, strict=True)
    ]
    every = tuple(rate for rates in read for rate in rates)
    return found, {"read": Spread(values=every), "multiply": Spread(values=tuple(multiply))}


def to_json(found: Sequence[Found], limits: dict[str, Spread], **about: Any) -> str:
    """One line of JSON; ``about`` is the machine and the protocol."""
    return json.dumps(
        {
            **about,
            "shape": graphs.SHAPE,
            "limits": {what: one.as_json() for what, one in limits.items()},
            "kernels": [
                {
                    "does": one.kernel.does,
                    "way": one.kernel.way,
                    "seconds": one.seconds.as_json(),
                    "of_reading": one.of_reading.as_json(),
                    "of_multiplying": one.of_multiplying.as_json(),
                }
                for one in found
            ],
        }
    )


def _shares(work: int, seconds: Sequence[float], limits: Sequence[float]) -> Spread:
    pairs = zip(seconds, limits, strict=True)
    return Spread(values=tuple(work / each / most for each, most in pairs))


def _cells(found: Found) -> tuple[str, ...]:
    low, high = min(found.seconds.values), max(found.seconds.values)
    return (
        f"{found.seconds.median * 1e3:.2f}",
        f"{low * 1e3:.2f} to {high * 1e3:.2f}",
        f"{found.of_reading.median:.0%}",
        f"{found.of_multiplying.median:.0%}",
    )


if __name__ == "__main__":
    sys.exit(status_of(main))
