"""How fast is each recipe in a browser's WASM? ``python -m tramontane.interop.web_speed``.

What decided ``--target web``, measured in Node, whose WASM is Chromium's: time to load, tokens per
second, memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import ConfigError, ContractError, status_of
from ..export.build import Options, export_checkpoint
from ..export.checkpoint import Checkpoint
from ..export.progress import say
from ..runtime.contract import Geometry
from . import places, web_server

RECIPES = (("fp32", "ort"), ("int8", "ort"), ("int4", "ort"), ("int8", "web"))  # the first is base
PREFILL = 64  # tokens of a chunk, as examples/web has them
STEPS = 32
WARM_UP, ROUNDS = 2, 7  # of speed; all recipes of a model in one process, in turns
LOADS = 5  # each in a process of its own, since a heap never shrinks

_MULTIPLIES = ("`MatMulNBits`", "`MatMulNBits`", "`MatMulIntegerToFloat`")  # all but the base
_RUNNER = Path(__file__).with_name("runners") / "web_speed.mjs"
_COLUMNS = (
    *("model", "recipe", "threads", "files, MB", "load, ms", "prefill, tokens/s", "x fp32"),
    *("decode, tokens/s", "x fp32", "heap, MB", "x fp32"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One recipe of one model."""

    model: str
    quant: str
    target: str
    folder: Path
    geometry: Geometry
    file_bytes: int  # of graph and weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A figure over fp32's: in the middle one of the rounds, and in the least and the most."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One artifact with so many threads; figures are medians, ratios of the same round."""

    model: str
    quant: str
    target: str
    threads: int
    file_bytes: int
    load_ms: float
    prefill_tokens_per_s: float
    prefill_of_fp32: Ratio
    decode_tokens_per_s: float
    decode_of_fp32: Ratio
    heap_bytes: int
    heap_of_fp32: float

    @property
    def recipe(self) -> str:
        """As people call it."""
        return f"{self.quant} {self.target}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All rows, and what they were measured with."""

    rows: list[Row]
    geometries: dict[str, Geometry]  # by model
    machine: dict[str, str]
    command: str


def main(argv: list[str] | None = None) -> int:
    """Export, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tramontane.interop.web_speed", description=__doc__
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="checkpoint")
    parser.add_argument("--window", type=int, metavar="N", help="of models that have none")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as Markdown")
    args = parser.parse_args(argv)
    packages = _packages()
    rows: list[Row] = []
    geometries, machine = {}, {}
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            artifacts = export(model, Path(folder), window=args.window)
            geometries[artifacts[0].model] = artifacts[0].geometry
            for threads in sorted({1, min(2, os.cpu_count() or 1)}):
                say(f"{model.name}: {threads} thread{'s' * (threads > 1)}")
                speeds, loads = measure(artifacts, packages, threads=threads)
                rows += as_rows(artifacts, speeds, loads, threads=threads)
                machine = describe_machine(speeds)
    command = " ".join(
        [
            *("python -m tramontane.interop.web_speed", *(model.name for model in args.models)),
            *([f"--window {args.window}"] if args.window is not None else []),
        ]
    )
    report = Report(rows=rows, geometries=geometries, machine=machine, command=command)
    print_table(report)
    if args.out is not None:
        args.out.write_text(as_markdown(report), encoding="utf-8")
    print(to_json(report))
    return 0


def export(model: Path, folder: Path, *, window: int | None) -> list[Artifact]:
    """Export every recipe of a model, unmeasured.

    Raises:
        TramontaneError: as ``export_checkpoint``.
        ConfigError: the model has too few positions.
    """
    config = Checkpoint.open(model).config
    if config.max_position_embeddings < PREFILL + STEPS:
        raise ConfigError(
            f"{model}: {config.max_position_embeddings} positions, expected at least "
            f"{PREFILL + STEPS}: a prefill of {PREFILL} and {STEPS} steps; choose another model"
        )
    window = window if config.sliding_window is None else None
    artifacts = []
    for quant, target in RECIPES:
        say(f"{model.name}: exporting {quant} for {target}")
        out = folder / f"{quant}-{target}"
        options = Options(quant=quant, target=target, window=window)
        manifest = export_checkpoint(model, out, options, resume=False)
        artifacts.append(
            Artifact(
                model=model.resolve().name,
                quant=quant,
                target=target,
                folder=out,
                geometry=manifest.geometry,
                file_bytes=sum(path.stat().st_size for path in (out / "onnx").iterdir()),
            )
        )
    return artifacts


def measure(
    artifacts: Sequence[Artifact], packages: Path, *, threads: int
) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Run artifacts of one model in WASM.

    Args:
        artifacts: the first is fp32.
        packages: folder with onnxruntime-web.
        threads: of WASM.

    Returns:
        What the runner says of all in one process, and of each alone, ``LOADS`` times.

    Raises:
        ContractError: no Node, or WASM cannot run an artifact.
    """
    loads: list[list[dict[str, Any]]] = [[] for _ in artifacts]
    for _ in range(LOADS):
        for artifact, found in zip(artifacts, loads, strict=True):
            found.append(_run([artifact], packages, threads=threads, steps=1, warm_up=1))
    speeds = _run(artifacts, packages, threads=threads, warm_up=WARM_UP, rounds=ROUNDS)
    return speeds, loads


def as_rows(
    artifacts: Sequence[Artifact],
    speeds: dict[str, Any],
    loads: Sequence[Sequence[dict[str, Any]]],
    *,
    threads: int,
) -> Iterator[Row]:
    """Medians, and ratios to the first artifact."""
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
        yield Row(
            model=artifact.model,
            quant=artifact.quant,
            target=artifact.target,
            threads=threads,
            file_bytes=artifact.file_bytes,
            load_ms=median(one["artifacts"][0]["load_ms"] for one in loads[at]),
            heap_bytes=heaps[at],
            heap_of_fp32=heaps[at] / heaps[0],
            **figures,
        )


def describe_machine(speeds: dict[str, Any]) -> dict[str, str]:
    """What was measured on, by the runner's word and ours."""
    return {
        "processor": f"{platform.machine()}, {speeds['processor']}",
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        **speeds["versions"],
    }


def print_table(report: Report) -> None:
    """For people."""
    table = Table(*_COLUMNS)
    for row in report.rows:
        table.add_row(*_cells(row))
        if (row.quant, row.target) == RECIPES[-1]:
            table.add_section()
    Console(width=150).print(table)


def as_markdown(report: Report) -> str:
    """For docs: the table, what decides, and how it was measured."""
    lines = [
        "# How fast is each recipe in a browser's WASM?",
        "",
        f"Printed by `make bench-web` (`{report.command}`):",
        "every figure on this page is measured by it.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "| --- | --- |" + " ---: |" * (len(_COLUMNS) - 2),
        *("| " + " | ".join(_cells(row)) + " |" for row in report.rows),
        "",
        "*x fp32*: over `fp32 ort` of the same model, threads and round, so that more is faster, or",
        "larger; the median of the rounds, in brackets the least and the most of them.",
        "",
        "## What decides the target",
        "",
        "Medians over fp32's, the least and the most of all models and threads:",
        "",
        "| recipe | multiplies with | decode | prefill | heap | files |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(
            "| " + " | ".join(_decision(report, quant, target, how)) + " |"
            for (quant, target), how in zip(RECIPES[1:], _MULTIPLIES, strict=True)
        ),
        "",
        "So `--target web` packs 8 bits as bytes that are multiplied with bytes, and refuses 4 bits,",
        "whose one kernel in WASM is `MatMulNBits`. Its `fp32` holds the weights of `fp32 ort`.",
        "",
        "## How it was measured",
        "",
        f"- {', '.join(f'{name} {value}' for name, value in report.machine.items())}.",
        *(_shape(model, geometry) for model, geometry in report.geometries.items()),
        f"- Speed: all recipes of a model in one process, in turns; {WARM_UP} rounds to warm up, then",
        f"  {ROUNDS}. Prefill is {PREFILL} tokens in one run on an empty cache; decode is {STEPS} steps",
        "  with a full window. Logits of all tokens are computed, since onnxruntime-web feeds no",
        "  input that has a default; the cache goes in and out as arrays of JavaScript's, as in",
        "  `examples/web`.",
        f"- Load and heap: each artifact alone in a process, {LOADS} times, in turns. Load is the time",
        "  from the files' bytes to a session, WASM's own start included; heap is all of WASM's",
        "  memory after a prefill and a step, and so its peak: it never shrinks.",
        "- What else the machine did slowed all recipes; more so two threads on two cores, which",
        "  wait for each other. Read ratios, not rates, and no ratio closer than its brackets.",
    ]
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> str:
    """For machines: one line."""
    return json.dumps(
        {
            "command": report.command,
            "machine": report.machine,
            "prefill": PREFILL,
            "steps": STEPS,
            "rounds": ROUNDS,
            "loads": LOADS,
            "geometries": {model: asdict(g) for model, g in report.geometries.items()},
            "rows": [asdict(row) for row in report.rows],
        }
    )


def _decision(report: Report, quant: str, target: str, how: str) -> list[str]:
    """What a recipe does to fp32's figures, over all models and threads."""
    rows = [row for row in report.rows if (row.quant, row.target) == (quant, target)]
    files = {row.model: row.file_bytes for row in report.rows if row.quant == "fp32"}
    ratios = (
        [row.decode_of_fp32.median for row in rows],
        [row.prefill_of_fp32.median for row in rows],
        [row.heap_of_fp32 for row in rows],
        [row.file_bytes / files[row.model] for row in rows],
    )
    spans = (f"{min(found):.2f} to {max(found):.2f}" for found in ratios)
    return [f"{quant} {target}", how, *spans]


def _shape(model: str, geometry: Geometry) -> str:
    window = (
        f"window {geometry.window}, {geometry.rows} rows of cache"
        if geometry.window
        else "no window, a cache that grows"
    )
    return (
        f"- {model}: {geometry.num_layers} layers, {geometry.num_key_value_heads} key/value heads "
        f"of {geometry.head_dim}, vocabulary {geometry.vocab_size}, {window}."
    )


def _cells(row: Row) -> list[str]:
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


def _packages() -> Path:
    try:
        return places.node_with("web", web_server.PACKAGES)
    except places.Absent as absent:
        raise ContractError(
            f"onnxruntime-web: {absent}; install Node with npm, which {web_server.PACKAGES[0]} "
            "comes from"
        ) from absent


def _run(
    artifacts: Sequence[Artifact],
    packages: Path,
    *,
    threads: int,
    warm_up: int,
    rounds: int = 0,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Let the runner do one job."""
    job = {
        "artifacts": [str(artifact.folder.resolve()) for artifact in artifacts],
        "threads": threads,
        "prefill": PREFILL,
        "steps": steps,
        "warm_up": warm_up,
        "rounds": rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        try:
            found = places.run(["node", _RUNNER, path, packages])
        except places.Absent as absent:
            names = ", ".join(f"{one.model} {one.quant} {one.target}" for one in artifacts)
            raise ContractError(
                f"{names}, {threads} threads: {absent}; expected a Node that runs it in WASM"
            ) from absent
    measured: dict[str, Any] = json.loads(found.splitlines()[-1])
    return measured


if __name__ == "__main__":
    sys.exit(status_of(main))
