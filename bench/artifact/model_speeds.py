"""Measures how fast known models run, most of them projected from stand-ins with few layers.

    python -m tramontane.bench.artifact.model_speeds
    python -m tramontane.bench.artifact.model_speeds smollm2-135m --rounds 1

A stand-in has the widths of a model, random weights and few layers. Two of them, with different
numbers of layers, give the time of a layer and of the rest, and so that of all layers. Some models
are measured with all layers too, which shows the error of a projection.

What is measured is stored after each recipe of each model; the same command resumes there.
``docs/models.md`` has its tables from that file (``bench/pages/models.py``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...console.one_line_parser import OneLineParser
from ...console.progress import say
from ...console.status import status_of
from ...export.known_models import GEOMETRIES, find_geometry, shorten
from ...runtime.ort.ort_session import physical_cores
from ...runtime.sizes import counted
from ..export.stand_ins import export, most_memory, synthesize
from ..machine import machine
from .speed import ask, token_ids
from .stored_speeds import (
    DECODE,
    PREFILL,
    PREFILL_TOKENS,
    QUANTS,
    STEPS,
    STORED,
    TOKENS,
    WARM_UP,
    Round,
    SpeedCase,
    speed_lines,
    store,
    stored_rows,
)

LAYERS = (2, 4)
WHOLE = ("stdlib-5m", "smollm2-135m", "llama-3.2-1b")


def main(argv: list[str] | None = None) -> int:
    """Measure what the file lacks, and print the tables."""
    args = _arguments(argv)
    for name in (*args.geometries, *args.whole):
        for layers in args.layers:
            shorten(find_geometry(name), layers)
    about = machine(args.threads)
    for name in args.geometries:
        whole = (find_geometry(name).num_hidden_layers,)
        for layers in (tuple(args.layers), *([whole] if name in args.whole else [])):
            cases = [
                SpeedCase(
                    geometry=name, quant=each, layers=layers, rounds=args.rounds, machine=about
                )
                for each in args.quants
            ]
            _measure_missing(cases, args.stored, args.work)
    print("\n".join(speed_lines(stored_rows(args.stored))))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m tramontane.bench.artifact.model_speeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "geometries",
        nargs="*",
        default=list(GEOMETRIES),
        metavar="GEOMETRY",
        help="known models (default: all)",
    )
    parser.add_argument(
        "--whole",
        nargs="*",
        default=list(WHOLE),
        metavar="GEOMETRY",
        help=f"of these, measure all layers too (default: {' '.join(WHOLE)})",
    )
    parser.add_argument(
        "--layers",
        type=int,
        nargs=2,
        default=list(LAYERS),
        metavar=("FEW", "MORE"),
        help=f"of the two stand-ins (default: {' '.join(map(str, LAYERS))})",
    )
    parser.add_argument(
        "--quants", nargs="+", default=list(QUANTS), help=f"recipes (default: {' '.join(QUANTS)})"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="each runs both stand-ins (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=physical_cores(), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--stored", type=Path, default=STORED, metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("artifacts/bench"),
        help="folder of checkpoints and artifacts, removed when measured (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if not 1 <= args.layers[0] < args.layers[1]:
        parser.error(
            f"--layers {args.layers[0]} {args.layers[1]}: expected a larger second number"
        )
    for flag, given in (("--rounds", args.rounds), ("--threads", args.threads)):
        if given < 1:
            parser.error(f"{flag} {given}: expected 1 or more")
    return args


def _measure_missing(cases: Sequence[SpeedCase], stored: Path, work: Path) -> None:
    """Measure cases of equal layers of one model that the file lacks, and add each to it."""
    done = [row["case"] for row in stored_rows(stored)]
    missing = [case for case in cases if case.as_json() not in done]
    if not missing:
        return
    name, layers = missing[0].geometry, missing[0].layers
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        checkpoints = {each: Path(folder) / f"{name}-{each}" for each in layers}
        for each, checkpoint in checkpoints.items():
            say(f"{name}: writing {counted(each, 'layer')} of random weights")
            synthesize(name, checkpoint, layers=each, limit_bytes=most_memory())
        for case in missing:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                artifacts = {each: Path(own) / f"{each}" for each in layers}
                for each, out in artifacts.items():
                    say(f"{name}: exporting {counted(each, 'layer')} in {case.quant}")
                    export(checkpoints[each], out, quant=case.quant, limit_bytes=most_memory())
                found = _measured(case, artifacts)
            store(stored, case, found)


def _measured(case: SpeedCase, artifacts: Mapping[int, Path]) -> list[Round]:
    """Rounds, each with all artifacts one after the other: other load affects both."""
    say(f"{case.geometry}: measuring {case.quant}, {counted(case.rounds, 'round')}")
    job = {
        "tokens": token_ids(find_geometry(case.geometry).vocab_size, TOKENS),
        "piece": TOKENS,
        "prefill": [TOKENS],
        "prefill_tokens": PREFILL_TOKENS,
        "decode": [TOKENS],
        "warm_up": WARM_UP,
        "steps": STEPS,
        "computes_all": False,
        "threads": case.machine["threads"],
    }
    rounds: list[Round] = []
    for _ in range(case.rounds):
        found: Round = {}
        for layers, artifact in artifacts.items():
            rates = ask({**job, "model": str(artifact)})
            prefill, decode = rates[f"prefill {TOKENS}"], rates[f"decode at {TOKENS}"]
            found[layers] = {PREFILL: TOKENS / prefill, DECODE: 1 / decode}
        rounds.append(found)
    return rounds


if __name__ == "__main__":
    sys.exit(status_of(main))
