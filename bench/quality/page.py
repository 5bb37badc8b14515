"""Prints docs/quality.md, and a table, from what ``make bench-quality`` measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ...console.one_line_parser import OneLineParser
from ...console.rich_console import rich_console
from ...console.status import status_of
from ...runtime.errors import ContractError
from ...runtime.sizes import counted
from ...validate.report.scales import write_number
from ..machine import describe_machines
from ..pages.template import fill_in, put_figures
from ..stored_reports import read_quality

_TEMPLATE = Path(__file__).with_name("quality.md.jinja")
PATTERN = "quality-*.json"
COLUMNS = (
    *(
        "format",
        "bits per weight",
        "mean KL",
        "of weights alone",
        "99.9 % KL",
        "max KL",
        "same top",
    ),
    *("perplexity ratio", "front", "types"),
)
_KLS = ("mean_kl", "weights_kl", "p999_kl", "max_kl")


def main(argv: list[str] | None = None) -> int:
    """Read a folder of measurements, write the page and its plots."""
    parser = OneLineParser(prog="python -m tramontane.bench.quality.page", description=__doc__)
    parser.add_argument("folder", type=Path, help=f"holds {PATTERN}")
    parser.add_argument("--out", type=Path, required=True, help="the page, Markdown")
    args = parser.parse_args(argv)
    reports = [read_quality(path) for path in sorted(args.folder.glob(PATTERN))]
    if not reports:
        raise ContractError(
            f"{args.folder}: no {PATTERN}, expected what make bench-quality writes; run it first"
        )
    plots = put_figures(args.folder.glob("quality-*.svg"), page=args.out)
    args.out.write_text(render(reports, plots=plots), encoding="utf-8")
    print(f"wrote {args.out}")
    return 0


def render(reports: Sequence[Mapping[str, Any]], *, plots: Mapping[str, str]) -> str:
    """The page.

    Args:
        reports: what was measured, of one model each.
        plots: links to the pictures that exist, by name.
    """
    return fill_in(_TEMPLATE, reports=[_describe(one, plots) for one in reports]) + "\n"


def print_table(report: Mapping[str, Any]) -> None:
    """The same table, on standard output."""
    table = Table(*COLUMNS)
    for row in report["rows"]:
        table.add_row(*_cells(row))
    console = rich_console(width=160)
    console.print(table)
    for note in _notes(report):
        console.print(note)


def _describe(report: Mapping[str, Any], plots: Mapping[str, str]) -> dict[str, Any]:
    text, window = report["text"], report["window"]
    scored = (
        f"{text['positions']} positions: all of {text['sequences']} sequences of "
        f"{text['length']} tokens, spread evenly over {text['source']}. Each sequence starts "
        "with an empty KV cache and, where the model has one, the start token."
    )
    fits = (
        ""
        if window is None
        else f"The model has a window of {window} tokens, which llama.cpp does not apply to this "
        "architecture. No sequence is longer than the window, so every runtime computes the "
        "same model."
    )
    return {
        "model": report["model"],
        "scored": scored,
        "window": fits,
        "rows": [_cells(row) for row in report["rows"]],
        "notes": _notes(report),
        "plot": plots.get(f"quality-{report['model']}.svg", ""),
        "machine": describe_machines([_shortened(report["machine"])]),
    }


def _shortened(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The machine, with the versions alone of what lists how it was built too."""
    versions = {name: text.partition(",")[0] for name, text in machine["versions"].items()}
    return {**machine, "versions": versions}


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["why"]:
        return [row["name"], *[""] * 8, row["why"].replace("\n", " ").replace("|", "/")]
    types = row["types"]
    if row["fallen_back"]:
        types += f" ({row['fallen_back']} fell back)"
    return [
        row["name"],
        f"{row['bits_per_weight']:.2f}",
        *(write_number(row[name], keeps_zeros=True) for name in _KLS),
        f"{row['same_top']:.2%}",
        "not a number" if row["perplexity_ratio"] is None else f"{row['perplexity_ratio']:.4f}",
        "yes" if row["is_on_front"] else "",
        types,
    ]


def _notes(report: Mapping[str, Any]) -> list[str]:
    measured = [row for row in report["rows"] if not row["why"]]
    notes = []
    fallen = [row for row in measured if row["fallen_back"]]
    if fallen:
        notes.append(
            "*Fell back*: matrices whose number of columns is no multiple of the format's block; "
            "llama.cpp quantizes them to another type, of more bits: "
            + ", ".join(
                f"{row['name']} {counted(row['fallen_back'], 'matrix', 'matrices')}"
                for row in fallen
            )
            + "."
        )
    return notes


if __name__ == "__main__":
    sys.exit(status_of(main))
