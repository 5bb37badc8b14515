"""Measure each recipe in WASM: ``python -m tramontane.bench.web``.

Time to load, tokens per second and memory, measured in Node, which has the same WASM engine as
Chromium. These figures are the reason for ``--target web``.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...console.one_line_parser import OneLineParser
from ...console.progress import say
from ...console.status import status_of
from ...deploy import web_server
from ...environments import commands, node
from ...environments.errors import Absent
from ...export.build import (
    export_checkpoint,
)
from ...export.formats.checkpoint import Checkpoint
from ...export.options import (
    ExportOptions,
)
from ...interop import runners
from ...runtime.errors import ConfigError, ContractError
from .figures import (
    Artifact,
    Machine,
    WebReport,
    WebSpeed,
    as_markdown,
    as_rows,
    print_table,
    to_json,
)

RECIPES = (("fp32", "ort"), ("int8", "ort"), ("int4", "ort"), ("int8", "web"))
PREFILL = 64  # tokens of a chunk, as examples/web has them
STEPS = 32
WARM_UP, ROUNDS = 2, 9  # of speed; all recipes of a model in one process, in turns
LOADS = 5  # each in a process of its own, since a heap never shrinks

_RUNNER = Path(runners.__file__).parent / "onnxruntime_web" / "wasm_speed.mjs"
_PROTOCOL = {
    "prefill": PREFILL,
    "steps": STEPS,
    "warm_up": WARM_UP,
    "rounds": ROUNDS,
    "loads": LOADS,
}


def main(argv: list[str] | None = None) -> int:
    """Export, measure, print a table, or one line of JSON."""
    parser = OneLineParser(prog="python -m tramontane.bench.web", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="checkpoint")
    parser.add_argument("--window", type=int, metavar="N", help="of models that have none")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    args = parser.parse_args(argv)
    packages = _packages()
    rows: list[WebSpeed] = []
    geometries = {}
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            artifacts = export(model, Path(folder), window=args.window)
            geometries[artifacts[0].model] = artifacts[0].geometry
            for threads in sorted({1, min(2, os.cpu_count() or 1)}):
                say(f"{artifacts[0].model}: measuring with threads: {threads}")
                speeds, loads = measure(artifacts, packages, threads=threads)
                rows += as_rows(artifacts, speeds, loads, threads=threads)
    window = [] if args.window is None else [f"--window {args.window}"]
    report = WebReport(
        rows=rows,
        geometries=geometries,
        machine=_machine(speeds),
        command=" ".join(["python -m tramontane.bench.web", *geometries, *window]),
        protocol=_PROTOCOL,
    )
    if args.out is not None:
        args.out.write_text(as_markdown(report), encoding="utf-8")
    print(to_json(report)) if args.json else print_table(report)
    return 0


def export(model: Path, folder: Path, *, window: int | None) -> list[Artifact]:
    """Export every recipe of a model, without the parity check.

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
        say(f"{model.resolve().name}: exporting {quant} for {target}")
        out = folder / f"{quant}-{target}"
        options = ExportOptions(quant=quant, target=target, window=window)
        manifest = export_checkpoint(model, out, options, resume=False)
        artifacts.append(
            Artifact(
                model=model.resolve().name,
                recipe=f"{quant} {target}",
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
        artifacts: of one model.
        packages: folder with onnxruntime-web.
        threads: of WASM.

    Returns:
        The runner's output on all in one process, and on each alone, ``LOADS`` times.

    Raises:
        ContractError: no Node, or WASM cannot run an artifact.
    """
    loads: list[list[dict[str, Any]]] = [[] for _ in artifacts]
    for _ in range(LOADS):
        for artifact, found in zip(artifacts, loads, strict=True):
            found.append(_run([artifact], packages, threads=threads, steps=1, warm_up=1))
    speeds = _run(artifacts, packages, threads=threads, warm_up=WARM_UP, rounds=ROUNDS)
    return speeds, loads


def _machine(speeds: dict[str, Any]) -> Machine:
    """Machine and versions, as the runner and we report them."""
    return Machine(
        processor=f"{speeds['processor']} ({platform.machine()})",
        cores=os.cpu_count() or 1,
        system=platform.system(),
        versions=speeds["versions"],
    )


def _packages() -> Path:
    try:
        return node.node_with("web", web_server.PACKAGES)
    except Absent as absent:
        raise ContractError(
            f"{web_server.PACKAGES[0]}: {absent}; expected Node with npm, which installs it"
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
    """Run one job with the runner."""
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
            return commands.answer(
                ["node", _RUNNER, path, packages], limit_s=commands.LONG_LIMIT_S
            )
        except Absent as absent:
            names = ", ".join(artifact.recipe for artifact in artifacts)
            raise ContractError(
                f"{artifacts[0].model}, {names}: {absent}; expected Node that runs it in WASM"
            ) from absent


if __name__ == "__main__":
    sys.exit(status_of(main))
