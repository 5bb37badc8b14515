"""Compare the quality of quantized models for their bits: ``python -m tramontane.bench.quality``.

Our recipes and llama.cpp's formats are scored on the same tokens, each through its own runtime,
and compared with the unquantized model in PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ...console.one_line_parser import OneLineParser
from ...console.status import status_of
from ...export.formats.checkpoint import Checkpoint
from ...runtime.ort.ort_session import physical_cores
from .. import option_types
from ..machine import machine
from .measure import Measurement, chosen
from .page import print_table, render
from .passages import Passages, read_passages
from .plot import plot
from .rows import as_json

POSITIONS = 8192


def main(argv: list[str] | None = None) -> int:
    """Score all formats of a model; write JSON, a plot and a page, and print a table."""
    args = _parser().parse_args(argv)
    names = chosen(args.only)
    with Checkpoint.open(args.model) as checkpoint:
        passages = read_passages(args.model, checkpoint, text=args.text, positions=args.positions)
        measurement = Measurement(checkpoint, passages, args.work, threads=args.threads)
        rows = measurement.run(names)
        config = checkpoint.config
        about = machine(args.threads)
        about["versions"] |= measurement.versions
        report: dict[str, Any] = {
            "model": args.model.resolve().name,
            "num_parameters": config.num_parameters,
            "window": config.sliding_window,
            "text": _describe(passages),
            "machine": about,
            "rows": as_json(rows, num_parameters=config.num_parameters),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    picture = args.out.with_suffix(".svg")
    plot(report, picture)
    page = args.out.with_suffix(".md")
    page.write_text(render([report], plots={picture.name: picture.name}), encoding="utf-8")
    print_table(report)
    print(f"wrote {args.out}, {picture} and {page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m tramontane.bench.quality", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made of it")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file; the plot and the page are beside it"
    )
    parser.add_argument(
        "--text", type=Path, help="UTF-8 text to score (default: for the bundled model alone)"
    )
    parser.add_argument(
        "--positions",
        type=option_types.TOKENS,
        default=POSITIONS,
        help="to score, at least (%(default)s)",
    )
    parser.add_argument("--only", nargs="+", metavar="FORMAT", help="parts of formats' names")
    parser.add_argument(
        "--threads", type=option_types.THREADS, default=physical_cores(), help="(%(default)s)"
    )
    return parser


def _describe(passages: Passages) -> dict[str, Any]:
    count, length = passages.sequences.shape
    return {
        "source": passages.source,
        "positions": passages.positions,
        "sequences": count,
        "length": length,
    }


if __name__ == "__main__":
    sys.exit(status_of(main))
