"""Writes what a sweep found as one page: Markdown with a plot of each model, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.table import Table

from ...console.rich_console import rich_console
from ...runtime.sizes import format_bytes
from ...validate.report.scales import write_number
from ...validate.run_gate import FOLDER, PAGE_FILE
from ..pages.template import fill_in
from ..quality.plot import plot

_TEMPLATE = Path(__file__).with_name("sweep.md.jinja")
PAGE, JSON = "sweep.md", "sweep.json"
_LINES = 2  # of why there is no artifact; the first says how many checks failed
COLUMNS = (
    *("recipe", "target", "bits per weight", "weights", "mean KL", "top-1 agreement"),
    *("perplexity ratio", "greedy tokens that agree", "front"),
)


def write_page(report: Mapping[str, Any], out: Path) -> Path:
    """Write ``sweep.md``, ``sweep.json`` and a plot of each model into a folder; the page."""
    (out / JSON).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for one in report["models"]:
        if has_plot(one):
            targets = list(dict.fromkeys(row["target"] for row in one["rows"]))
            plot(one, out / plot_name(one), families=targets)
    (out / PAGE).write_text(render(report), encoding="utf-8")
    return out / PAGE


def render(report: Mapping[str, Any]) -> str:
    """The page."""
    models = [_describe(one) for one in report["models"]]
    return fill_in(_TEMPLATE, models=models, columns=COLUMNS) + "\n"


def print_tables(report: Mapping[str, Any]) -> None:
    """The same tables, on standard output."""
    console = rich_console(width=160)
    for one in report["models"]:
        table = Table(*COLUMNS, title=one["model"])
        for row in one["rows"]:
            table.add_row(*_cells(row))
        console.print(table)


def has_plot(model: Mapping[str, Any]) -> bool:
    """Whether any quantized recipe of a model was measured."""
    return any(row["is_quantized"] and not row["why"] for row in model["rows"])


def plot_name(model: Mapping[str, Any]) -> str:
    """The file of a model's plot."""
    return f"sweep-{model['model']}.svg"


def _describe(model: Mapping[str, Any]) -> dict[str, Any]:
    measured = [
        f"{one['positions']} positions of {one['text']}, {one['processor']}, "
        + ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        for one in model["measured"]
    ]
    return {
        "model": model["model"],
        "parameters": f"{model['num_parameters']:,}".replace(",", " "),
        "rows": [_linked(row, _cells(row)) for row in model["rows"]],
        "plot": quote(plot_name(model)) if has_plot(model) else "",
        "measured": "; and on ".join(measured),
    }


def _linked(row: Mapping[str, Any], cells: list[str]) -> list[str]:
    """The cells for Markdown: the recipe leads to the artifact's parity report."""
    cells = [cell.replace("|", "\\|") for cell in cells]
    if row["why"]:
        return cells
    report = quote(f"{row['artifact']}/{FOLDER}/{PAGE_FILE}")
    return [f"[{cells[0]}]({report})", *cells[1:]]


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["why"]:
        why = " ".join(line.strip() for line in row["why"].splitlines()[:_LINES])
        return [row["recipe"], row["target"], *[""] * (len(COLUMNS) - 3), why]
    return [
        row["recipe"],
        row["target"],
        f"{row['bits_per_weight']:.2f}",
        format_bytes(row["weights_bytes"]),
        write_number(row["mean_kl"], keeps_zeros=True),
        f"{row['same_top']:.2%}",
        write_number(row["perplexity_ratio"], digits=5, keeps_zeros=True),
        f"{row['same_greedy_tokens']:.0f} of {row['greedy_tokens']:.0f}",
        "yes" if row["is_on_front"] else "",
    ]
