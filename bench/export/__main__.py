"""Measure memory and time of exports, and compare sessions with the memory plan.

Each job is a process of its own, measured from outside. Exits with 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from ...console.one_line_parser import OneLineParser
from ...console.progress import say
from ...console.rich_console import rich_console
from ...console.status import status_of
from ...export.build import (
    HASHING,
)
from ...export.known_models import find_geometry
from ...runtime.manifest import read_manifest
from ...runtime.memory import cache_bytes
from ...runtime.sizes import counted, format_bytes
from .. import option_types
from ..process import run
from .stand_ins import checked, export, most_memory, ours, synthesize

MOST_BYTES = 2 << 30  # of resident memory, imports included
MOST_MORE_BYTES = 64 << 20  # of all layers over the fewest measured
MOST_SECONDS = 300  # for a whole model of 7 billion parameters
LEAST_WORK = 0.7  # share of the time that hashes, reads, quantizes and writes: all but tracing
MOST_RESIDENT = 1.2  # times the artifact, beside the cache, for a whole model
PLAN_ERROR = 0.1  # share by which planned memory may miss what is measured


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportCost:
    """Figures of one export and of a session with its artifact."""

    layers: int
    quant: str
    seconds: float
    work_share: float  # of the time, after tracing: hashing, reading, quantizing, writing
    peak_bytes: int
    planned_peak_bytes: int
    weights_bytes: int
    # Of a session after prefill and some steps. While it loads, pages of the file are resident
    # too; the system can drop them.
    resident_bytes: int
    planned_resident_bytes: int  # with the cache of as many tokens
    cache_bytes: int


def main() -> int:
    """Measure, print a table, or one line of JSON, and the broken bounds."""
    args = _arguments()
    whole = find_geometry(args.geometry)
    rows, peers = [], []
    for layers in args.layers or [whole.num_hidden_layers]:
        checkpoint = args.work / f"{args.geometry}-{layers}"
        if is_new := not checkpoint.exists():
            synthesize(args.geometry, checkpoint, layers=layers, limit_bytes=MOST_BYTES)
        for quant in args.quant:
            rows.append(_measure(checkpoint, args, layers, quant))
        peers.append(_measure_genai(checkpoint, args, layers))
        if is_new:
            shutil.rmtree(checkpoint)
    is_of_seven = round(whole.num_parameters / 1e9) == 7
    broken = list(broken_bounds(rows, whole.num_hidden_layers if is_of_seven else None))
    for line in broken:
        say(f"bound broken: {line}")
    found = {
        "geometry": args.geometry,
        "tokens": args.tokens,
        "rows": [asdict(row) for row in rows],
        "onnxruntime-genai": peers,
        "broken": broken,
        "machine": _machine(),
    }
    print(json.dumps(found)) if args.json else _print(rows, peers)
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m tramontane.bench.export", description=__doc__)
    parser.add_argument(
        "--geometry",
        default="mistral-7b-v0.1",
        help="known model whose sizes are taken (default: %(default)s)",
    )
    parser.add_argument(
        "--layers",
        type=int,
        nargs="*",
        help="numbers of layers, an export each (default: all layers)",
    )
    parser.add_argument(
        "--quant",
        nargs="+",
        default=["int8", "int4-rtn"],
        help="recipes to measure (default: int8 int4-rtn)",
    )
    parser.add_argument(
        "--tokens",
        type=option_types.TOKENS,
        default=1024,
        help="tokens to prefill (default: %(default)s)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("artifacts/bench"),
        help="folder for checkpoints and artifacts (default: %(default)s)",
    )
    parser.add_argument(
        "--genai-python",
        default=sys.executable,
        metavar="PYTHON",
        help="Python of an environment with onnxruntime-genai (default: this one)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    return parser.parse_args()


def _measure(checkpoint: Path, args: argparse.Namespace, layers: int, quant: str) -> ExportCost:
    out = args.work / f"{checkpoint.name}-{quant}"
    say(f"exporting {counted(layers, 'layer')} in {quant}")
    exported = export(checkpoint, out, quant=quant, limit_bytes=2 * MOST_BYTES)
    session = checked(
        run(
            [
                sys.executable,
                "-m",
                "tramontane.bench.export.session_memory",
                out,
                "--tokens",
                str(args.tokens),
            ],
            limit_bytes=most_memory(),
        )
    )
    inspected = run(ours("inspect", checkpoint, "--no-validate", "--json"), limit_bytes=MOST_BYTES)
    plans = json.loads(checked(inspected).output)["plans"]
    manifest = read_manifest(out)
    shutil.rmtree(out)  # gigabytes, and the next may be larger
    memory, tokens = manifest.memory, json.loads(session.output)["tokens"]
    cache = cache_bytes(memory, manifest.geometry, tokens)
    traced = next(when for when, line in exported.lines if line.startswith(HASHING))
    return ExportCost(
        layers=layers,
        quant=quant,
        seconds=round(exported.seconds, 1),
        work_share=round((exported.seconds - traced) / exported.seconds, 3),
        peak_bytes=exported.peak_bytes,
        planned_peak_bytes=plans[quant]["export_peak_bytes"],
        weights_bytes=memory.weights_bytes,
        resident_bytes=json.loads(session.output)["decoded_bytes"],
        planned_resident_bytes=memory.needed(cache),
        cache_bytes=cache,
    )


def _measure_genai(checkpoint: Path, args: argparse.Namespace, layers: int) -> dict[str, Any]:
    """The same job with onnxruntime-genai's builder, if it is installed."""
    python, name = args.genai_python, "onnxruntime_genai"
    probe = [python, "-c", f"import importlib.util as u; exit(u.find_spec('{name}') is None)"]
    if subprocess.run(probe, check=False).returncode:
        return {"layers": layers, "absent": f"{name} is not installed"}
    out = args.work / f"{checkpoint.name}-genai"
    found = run(
        [
            python,
            "-m",
            f"{name}.models.builder",
            "-i",
            checkpoint,
            "-o",
            out,
            "-p",
            "int4",
            "-e",
            "cpu",
            "-c",
            args.work / "genai-cache",
        ],
        limit_bytes=most_memory(),
    )
    shutil.rmtree(out, ignore_errors=True)  # there is none if it failed
    return {
        "layers": layers,
        "quant": "int4",
        "seconds": round(found.seconds, 1),
        "peak_bytes": found.peak_bytes,
        "stopped_for_memory": found.was_stopped,
        "failed": "" if found.status == 0 or found.was_stopped else found.last_words,
    }


def broken_bounds(rows: Sequence[ExportCost], whole: int | None) -> Iterator[str]:
    """One line per broken bound, with the excess.

    Args:
        rows: what was measured.
        whole: layers of a whole model of 7 billion parameters, which has bounds of its own; None
            for another geometry.
    """
    for row in rows:
        what = f"{counted(row.layers, 'layer')} in {row.quant}"
        if row.peak_bytes > MOST_BYTES:
            yield f"{what}: peak {format_bytes(row.peak_bytes)} > {format_bytes(MOST_BYTES)}"
        for planned, measured, whose in (
            (row.planned_resident_bytes, row.resident_bytes, "a session's memory"),
            (row.planned_peak_bytes, row.peak_bytes, "the export's peak"),
        ):
            if abs(planned / measured - 1) > PLAN_ERROR:
                yield (
                    f"{what}: {whose} was planned as {format_bytes(planned)}, "
                    f"measured {format_bytes(measured)}"
                )
        if row.layers == whole:
            yield from _broken_by_whole(row, what)
    for quant in dict.fromkeys(row.quant for row in rows):
        peaks = [row.peak_bytes for row in rows if row.quant == quant]
        if max(peaks) - min(peaks) > MOST_MORE_BYTES:
            yield f"{quant}: peaks differ by {format_bytes(max(peaks) - min(peaks))} with layers"


def _broken_by_whole(row: ExportCost, what: str) -> Iterator[str]:
    if row.seconds > MOST_SECONDS:
        yield f"{what}: {row.seconds} s > {MOST_SECONDS} s"
    if row.work_share < LEAST_WORK:
        yield f"{what}: {row.work_share:.0%} of the time after tracing < {LEAST_WORK:.0%}"
    most = MOST_RESIDENT * row.weights_bytes + row.cache_bytes
    if row.resident_bytes > most:
        yield f"{what}: a session takes {format_bytes(row.resident_bytes)} > {most / 1e9:.2f} GB"


def _print(rows: list[ExportCost], peers: list[dict[str, Any]]) -> None:
    table = Table(
        "layers",
        "recipe",
        "seconds",
        "% of time after tracing",
        "peak export RAM",
        "planned export RAM",
        "artifact",
        "run RAM",
        "planned run RAM",
    )
    for row in rows:
        sizes = (
            row.peak_bytes,
            row.planned_peak_bytes,
            row.weights_bytes,
            row.resident_bytes,
            row.planned_resident_bytes,
        )
        table.add_row(
            str(row.layers),
            row.quant,
            f"{row.seconds:.1f}",
            f"{row.work_share:.0%}",
            *map(format_bytes, sizes),
        )
    for peer in peers:
        cells = ["", peer.get("absent", "")]
        if "seconds" in peer:
            mark = " (stopped)" if peer["stopped_for_memory"] else f" {peer['failed']}"
            cells = [f"{peer['seconds']:.1f}", "", format_bytes(peer["peak_bytes"]) + mark]
        table.add_row(str(peer["layers"]), "onnxruntime-genai int4", *cells)
    rich_console(width=120).print(table)


def _machine() -> dict[str, Any]:
    return {
        "cores": psutil.cpu_count(logical=False),
        "memory_bytes": psutil.virtual_memory().total,
        "processor": platform.machine(),
        "versions": {name: version(name) for name in ("numpy", "onnxruntime", "torch")},
    }


if __name__ == "__main__":
    raise SystemExit(status_of(main))
