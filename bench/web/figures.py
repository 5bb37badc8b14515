"""The figures of recipes in WASM, as a table, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from ...console.rich_console import rich_console
from ...runtime.cache import by_layer
from ...runtime.contract import Geometry
from ...runtime.sizes import counted

BASE = "fp32 ort"
MULTIPLIES = {
    "int8 ort": "`MatMulNBits`",
    "int4 ort": "`MatMulNBits`",
    "int8 web": "`MatMulIntegerToFloat`",
}
_COLUMNS = (
    *("model", "recipe", "threads", "files, MB", "load, ms", "prefill, tokens/s", "x fp32"),
    *("decode, tokens/s", "x fp32", "heap, MB", "x fp32"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One recipe of one model."""

    model: str
    recipe: str  # quant and target
    folder: Path
    geometry: Geometry
    file_bytes: int  # of graph and weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A figure over fp32's: median, lowest and highest of the rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WebSpeed:
    """One artifact with so many threads: medians of figures, and of ratios within a round."""

    model: str
    recipe: str
    threads: int
    file_bytes: int
    load_ms: float
    prefill_tokens_per_s: float
    prefill_of_fp32: Ratio
    decode_tokens_per_s: float
    decode_of_fp32: Ratio
    heap_bytes: int
    heap_of_fp32: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Machine and versions."""

    processor: str
    cores: int
    system: str
    versions: dict[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{self.processor}, {counted(self.cores, 'core')}, {self.system}; {versions}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WebReport:
    """All rows, and what they were measured with."""

    rows: list[WebSpeed]
    geometries: dict[str, Geometry]  # by model
    machine: Machine
    command: str
    protocol: dict[str, int]  # the counts in ``web_speed``


def as_rows(
    artifacts: Sequence[Artifact],
    speeds: dict[str, Any],
    loads: Sequence[Sequence[dict[str, Any]]],
    *,
    threads: int,
) -> Iterator[WebSpeed]:
    """Medians, and ratios to the first artifact, which is fp32.

    Args:
        artifacts: of one model.
        speeds: the runner's output on all of them in one process.
        loads: its output on each alone.
        threads: of WASM.
    """
    rounds = [one["rounds"] for one in speeds["artifacts"]]
    heaps = [int(median(one["heap_bytes"] for one in alone)) for alone in loads]
    for at, artifact in enumerate(artifacts):
        figures: dict[str, Any] = {}
        for what in ("prefill", "decode"):
            key = f"{what}_tokens_per_s"
            ratios = [
                mine[key] / base[key] for mine, base in zip(rounds[at], rounds[0], strict=True)
            ]
            figures[key] = median(one[key] for one in rounds[at])
            figures[f"{what}_of_fp32"] = Ratio(
                median=median(ratios), least=min(ratios), most=max(ratios)
            )
        yield WebSpeed(
            model=artifact.model,
            recipe=artifact.recipe,
            threads=threads,
            file_bytes=artifact.file_bytes,
            load_ms=median(one["artifacts"][0]["load_ms"] for one in loads[at]),
            heap_bytes=heaps[at],
            heap_of_fp32=heaps[at] / heaps[0],
            **figures,
        )


def print_table(report: WebReport) -> None:
    """For people."""
    table = Table(*_COLUMNS)
    for row, after in zip_longest(report.rows, report.rows[1:]):
        is_last = after is None or (after.model, after.threads) != (row.model, row.threads)
        table.add_row(*_cells(row), end_section=is_last)
    rich_console(width=150).print(table)


def as_markdown(report: WebReport) -> str:
    """The page docs/web.md: the table, the decision, and how it was measured."""
    count = report.protocol
    lines = [
        "# Speed of each recipe in a browser's WASM",
        "",
        f"Printed by `make bench-web` (`{report.command}`):",
        "this command measured every figure on this page.",
        "",
        "The figures are why browsers have a target of their own:",
        "`make export QUANT=int8 TARGET=web`. `examples/web/README.md` shows it in a page.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "| --- | --- |" + " ---: |" * (len(_COLUMNS) - 2),
        *("| " + " | ".join(_cells(row)) + " |" for row in report.rows),
        "",
        "*x fp32*: the figure divided by that of `fp32 ort` with the same model, threads and",
        "round: above 1 is faster (for heap: larger). Medians of the rounds; the lowest and the",
        "highest are in brackets.",
        "",
        "## What decides the target",
        "",
        "The medians of *x fp32*, lowest to highest over all models and thread counts:",
        "",
        "| recipe | matmul operator | decode | prefill | heap | files |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *("| " + " | ".join(cells) + " |" for cells in _decisions(report)),
        "",
        "Therefore `--target web` stores int8 weights for `MatMulIntegerToFloat`, which",
        "multiplies int8 by int8. It does not support int4, whose only kernel in WASM is",
        "`MatMulNBits`.",
        "",
        "## How it was measured",
        "",
        f"- {report.machine}.",
        *(_shape(model, geometry) for model, geometry in report.geometries.items()),
        "- Speed: all recipes of a model ran in one process, in turns:",
        f"  {count['warm_up']} rounds to warm up, then {count['rounds']} that count. Prefill is",
        f"  {count['prefill']} tokens in one run on an empty cache; decode is",
        f"  {count['steps']} steps with a full window. Logits of all tokens are computed, since",
        "  onnxruntime-web does not accept an input that has a default. The cache is copied to",
        "  and from JavaScript arrays, as in `examples/web`.",
        "- Load and heap: each artifact ran alone in a process,",
        f"  {count['loads']} times, in turns. Load is the time from bytes in memory to a session,",
        "  including the start of WASM. Heap is all of WASM's memory after a prefill and a step;",
        "  it never shrinks, so this is its peak.",
        "- Other load on the machine slowed the recipes too: compare ratios, not rates, and only",
        "  within their brackets.",
    ]
    return "\n".join(lines) + "\n"


def to_json(report: WebReport) -> str:
    """For machines: one line."""
    return json.dumps(asdict(report))


def _decisions(report: WebReport) -> Iterator[list[str]]:
    """Each recipe's figures over fp32's, for all models and thread counts."""
    files = {row.model: row.file_bytes for row in report.rows if row.recipe == BASE}
    for recipe in dict.fromkeys(row.recipe for row in report.rows):
        if recipe == BASE:
            continue
        rows = [row for row in report.rows if row.recipe == recipe]
        ratios = (
            [row.decode_of_fp32.median for row in rows],
            [row.prefill_of_fp32.median for row in rows],
            [row.heap_of_fp32 for row in rows],
            [row.file_bytes / files[row.model] for row in rows],
        )
        spans = (f"{min(found):.2f} to {max(found):.2f}" for found in ratios)
        yield [recipe, MULTIPLIES[recipe], *spans]


def _shape(model: str, geometry: Geometry) -> str:
    windows, rows = (by_layer(each, none="none") for each in (geometry.windows, geometry.rows))
    window = (
        f"window {windows}, {rows} rows of cache"
        if any(geometry.windows)
        else "no window, a cache that grows"
    )
    return (
        f"- {model}: {geometry.num_layers} layers, {geometry.num_key_value_heads} key/value heads "
        f"of {geometry.head_dim}, vocabulary {geometry.vocab_size}, {window}."
    )


def _cells(row: WebSpeed) -> list[str]:
    return [
        row.model,
        row.recipe,
        str(row.threads),
        f"{row.file_bytes / 1e6:.1f}",
        f"{row.load_ms:.0f}",
        f"{row.prefill_tokens_per_s:.0f}",
        _spread(row.prefill_of_fp32),
        f"{row.decode_tokens_per_s:.1f}",
        _spread(row.decode_of_fp32),
        f"{row.heap_bytes / 1e6:.1f}",
        f"{row.heap_of_fp32:.2f}",
    ]


def _spread(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.least:.2f}-{ratio.most:.2f})"
