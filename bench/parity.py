"""Runs the parity gate on all recipes of one model: an overview, and a report for each."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.table import Column, Table

from ..console.one_line_parser import OneLineParser
from ..console.processes import process_per_core as processes
from ..console.progress import track
from ..console.rich_console import rich_console
from ..console.status import status_of
from ..export.build import (
    export_checkpoint,
)
from ..export.formats.checkpoint import Checkpoint
from ..export.options import (
    ExportOptions,
)
from ..graphs.quantization.recipes.all_recipes import recipe_names
from ..graphs.targets.all_targets import TARGETS, find_target
from ..runtime.manifest import read_manifest
from ..runtime.sizes import format_bytes
from ..validate.measurement import GateOptions
from ..validate.run_gate import JSON_FILE, PAGE_FILE, validate, write_reports

_MOST_PARAMETERS = 10**8  # of models that may be measured side by side: each takes its memory
_TEMPLATE = Path(__file__).with_name("parity.html.jinja")
# Name of a figure in a report, its label, and its format.
COLUMNS = (
    ("distance", "distance", "{}"),
    ("mean_kl", "mean KL on text, nats", "{:.1e}"),
    ("mean_kl_on_random_tokens", "mean KL on random tokens, nats", "{:.1e}"),
    ("same_top", "top-1 agreement", "{:.2%}"),
    ("perplexity_ratio", "perplexity ratio", "{:.4f}"),
    ("max_logit_difference", "max |Δlogit|", "{:.1e}"),
    ("same_greedy_tokens", "greedy tokens", "{}"),
)


def main(argv: list[str] | None = None) -> int:
    """Export and measure every recipe for every target; return 1 if one failed."""
    parser = OneLineParser(prog="python -m tramontane.bench.parity", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint")
    parser.add_argument("out", type=Path, help="folder for the artifacts, reports and overview")
    parser.add_argument("--thorough", action="store_true", help="all lengths and layers")
    args = parser.parse_args(argv)
    cases = [
        (quant, target)
        for quant in recipe_names()
        for target in TARGETS
        if quant in find_target(target).quants()
    ]
    found = measured(args.model, args.out, cases, thorough=args.thorough)
    rows = [next(found) for _ in track(cases, "exporting and measuring recipes")]
    page = args.out / "index.html"
    page.write_text(render(rows, model=args.model.resolve().name), encoding="utf-8")
    name = Column("recipe", min_width=max(len(row["name"]) for row in rows))
    table = Table(name, "weights", *(title for _, title, _ in COLUMNS), "verdict")
    for row in rows:
        table.add_row(row["name"], row["weights"], *row["figures"], row["verdict"])
    rich_console(width=150).print(table)
    print(f"wrote {page}")
    return int(any(row["verdict"] != "passed" for row in rows))


def measured(
    model: Path, out: Path, cases: Sequence[tuple[str, str]], *, thorough: bool
) -> Iterator[dict[str, Any]]:
    """Export and measure recipes for targets; rows come in their order.

    Those of a small model run on a core each. The first runs alone, so that the others find the
    results of the reference that all share.
    """
    quants, targets = zip(*cases, strict=True)
    is_small = Checkpoint.open(model).config.num_parameters <= _MOST_PARAMETERS
    cores = processes.cores_for(len(cases) - 1) if is_small else []
    run = functools.partial(_measured, model, out, thorough)
    yield run(*cases[0])
    if not cores:
        yield from map(run, quants[1:], targets[1:])
        return
    with processes.process_per_core(cores, is_quiet=True) as pool:
        yield from pool.map(run, quants[1:], targets[1:])


def _measured(model: Path, out: Path, thorough: bool, quant: str, target: str) -> dict[str, Any]:
    artifact = out / f"{quant}-{target}"
    export_checkpoint(model, artifact, ExportOptions(quant=quant, target=target))
    options = GateOptions(thorough=thorough)
    verdict = validate(artifact, Checkpoint.open(model), options, explains=True)
    write_reports(verdict, out / "reports" / artifact.name)
    return _row(verdict.as_json(), artifact)


def render(rows: list[dict[str, Any]], *, model: str) -> str:
    """The overview as one page of HTML."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    titles = [title for _, title, _ in COLUMNS]
    return template.render(rows=rows, titles=titles, model=model)


def _row(report: dict[str, Any], artifact: Path) -> dict[str, Any]:
    head = report["headline"]
    return {
        "name": artifact.name,
        "weights": format_bytes(read_manifest(artifact).memory.weights_bytes),
        "figures": [
            "not a number" if head[name] is None else form.format(head[name])
            for name, _, form in COLUMNS
        ],
        "verdict": "passed" if report["passed"] else "failed",
        "why": report["explanation"]["cause"] if report["explanation"] else "",
        "page": f"reports/{artifact.name}/{PAGE_FILE}",
        "json": f"reports/{artifact.name}/{JSON_FILE}",
    }


if __name__ == "__main__":
    sys.exit(status_of(main))
