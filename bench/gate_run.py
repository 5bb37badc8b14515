"""Run the parity check of an artifact, and print what it took: time and peak memory.

    python -m tramontane.bench.gate_run ARTIFACT --reference CHECKPOINT

The check runs in a process of its own, with the options of ``tramontane validate``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psutil

from ..console.one_line_parser import OneLineParser
from ..console.status import status_of
from ..runtime.errors import ContractError
from ..runtime.ort.ort_session import physical_cores
from ..runtime.sizes import format_bytes
from .process import ProcessUsage, run

_MOST_MEMORY = 0.9  # of the machine's, so that it stays usable


def main(argv: list[str] | None = None) -> int:
    """Run the check, print its table and what it took."""
    parser = OneLineParser(
        prog="python -m tramontane.bench.gate_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--reference", type=Path, required=True, help="its checkpoint")
    parser.add_argument("--store", type=Path, help="folder for the reference's results")
    args = parser.parse_args(argv)
    words = [sys.executable, "-m", "tramontane.cli.main", "validate", args.artifact]
    words += ["--reference", args.reference]
    words += [] if args.store is None else ["--store", args.store]
    found = run(words, limit_bytes=int(psutil.virtual_memory().total * _MOST_MEMORY))
    print(found.output, end="")
    if found.status:
        raise ContractError(f"bench: the parity check failed: {found.last_words}")
    print(summary(found, cores=physical_cores()))
    return 0


def summary(found: ProcessUsage, *, cores: int) -> str:
    """One line.

    Args:
        found: of the check's process.
        cores: that it could use.
    """
    return (
        f"{found.seconds / 60:.1f} minutes; {found.cpu_seconds / 60:.1f} minutes of processor "
        f"time, {found.cpu_seconds / 60 / cores:.1f} for each of {cores} cores; peak memory "
        f"{format_bytes(found.own_peak_bytes)}, with mapped files {format_bytes(found.peak_bytes)}"
    )


if __name__ == "__main__":
    raise SystemExit(status_of(main))
