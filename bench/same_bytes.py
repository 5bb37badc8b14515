"""Check that two installations of tramontane export the same graphs and weights.

To restructure code that decides an artifact's bytes: run it with the installation from before the
change on every recipe, target and cache of a model; files below ``onnx/`` must be equal.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..console.one_line_parser import OneLineParser
from ..console.progress import track
from ..console.status import status_of
from ..graphs.quantization.recipes.all_recipes import recipe_names
from ..graphs.targets.all_targets import TARGETS

_LIMIT_SECONDS = 1200  # of one export
Words = tuple[str, ...]  # words of ``tramontane export``


def main(argv: list[str] | None = None) -> int:
    """Print each export whose bytes differ; return 1 if any does."""
    parser = OneLineParser(prog="python -m tramontane.bench.same_bytes", description=__doc__)
    parser.add_argument("before", type=Path, help="python of the other installation")
    parser.add_argument("models", type=Path, nargs="+", help="checkpoints")
    parser.add_argument("--window", type=int, help="window of models that have none")
    parser.add_argument("--only", nargs="+", default=[], help="e.g. quant=int8 kv=float32")
    args = parser.parse_args(argv)
    wanted = [
        (model, words)
        for model in args.models
        for words in choices(window=args.window)
        if all(f"--{word}" in words for word in args.only)
    ]
    differing, refused = [], 0
    for model, words in track(wanted, "exporting twice"):
        before, after = (hashes(python, model, words) for python in (args.before, sys.executable))
        if before != after:
            differing.append(f"{model.name} {' '.join(words)}: {_difference(before, after)}")
        refused += not after
    print("\n".join(differing) or "no bytes differ")
    print(
        f"{len(wanted) - len(differing)} of {len(wanted)} exports equal, {refused} not supported"
    )
    return 1 if differing else 0


def choices(*, window: int | None) -> list[Words]:
    """Every combination of recipe, target, cache and cache numbers."""
    own = [] if window is None else [f"--window={window}"]
    return [
        (f"--quant={quant}", f"--target={target}", f"--cache={cache}", f"--kv={kv}", *own)
        for quant, target, cache, kv in itertools.product(
            recipe_names(), TARGETS, ("windowed", "growing"), ("float32", "int8")
        )
    ]


def hashes(python: str | Path, model: Path, words: Sequence[str]) -> dict[str, str]:
    """SHA-256 by name of the graph and its weights; empty where the export is not supported."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "artifact"
        command = [str(python), "-m", "tramontane", "export", str(model), "--out", str(out)]
        done = subprocess.run(
            [*command, "--no-validate", *words],
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=_LIMIT_SECONDS,
        )
        if done.returncode == 2:
            return {}
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        files = (path for path in sorted((out / "onnx").iterdir()) if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    if not before or not after:
        return f"not supported by the {'other' if not before else 'this'} installation"
    return ", ".join(sorted(name for name, _ in set(before.items()) ^ set(after.items())))


if __name__ == "__main__":
    raise SystemExit(status_of(main))
