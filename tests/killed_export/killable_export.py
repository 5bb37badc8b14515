"""How does a test get an export that it may kill? A fork of a process that imported it all before.

Run with the file of a traced graph; requests are those of ``torture/fork_server.py``. An export is
the command line itself. What happens to it besides is arranged here, in its own process: the
command knows nothing of it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import tramontane.cli.commands.export
import tramontane.export.sidecars.card  # noqa: F401
from tramontane.cli import main as cli
from tramontane.export import build
from tramontane.graphs import weights
from tramontane.graphs.targets.all_targets import TARGETS, find_target
from tramontane.graphs.writing import artifact, external_data
from tramontane.torture.fork_server import interruptible, serve

_PIECES = 8  # of a weight that is written slowly
_WAIT_SECONDS = 120  # for the test that kills; far longer than one takes


def main() -> None:
    """Serve until standard input ends."""
    model = ir.load(sys.argv[1])
    for name in TARGETS:  # imports what an export imports when it needs it
        find_target(name)
    # Of the code as it was imported, whatever becomes of the files.
    digest = build.weights_code_digest()

    def run(request: dict[str, Any]) -> int:
        build.weights_code_digest = lambda: digest
        if not request["is_traced"]:
            build.trace_in_subprocess = lambda *_: model
        return _export(request)

    serve(run)


def _export(request: dict[str, Any]) -> int:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    _tell_what_is_computed()
    if request["slow_from"] is not None:
        _write_slowly(request["slow_from"], seconds=request["seconds"])
    if request["pause"] is not None:
        _pause(Path(request["log"]), *request["pause"])
    try:
        return interruptible(lambda: cli.main(request["arguments"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _tell_what_is_computed() -> None:
    stored = weights.stored

    def tell(value: Any) -> Any:
        print(f"computes {value.name}", file=sys.stderr, flush=True)
        return stored(value)

    weights.stored = tell


def _write_slowly(first: int, *, seconds: float) -> None:
    """Write weights from the first on, counted over all runs, in pieces with a rest after each."""
    places, pieces = external_data.places, artifact._pieces
    ends: dict[int, int] = {}

    def remember(*arguments: Any, **options: Any) -> list[Any]:
        laid_out = places(*arguments, **options)
        ends["count"] = len(laid_out)
        return laid_out

    def count(items: Sequence[Any], label: str, track: Any = build.track) -> Iterator[Any]:
        for left, item in zip(range(len(items), 0, -1), track(items, label), strict=True):
            ends["now"] = ends.get("count", 0) - left
            yield item

    def slowly(array: Any) -> Iterable[memoryview]:
        for piece in pieces(array):
            if ends["now"] < first:
                yield piece
                continue
            step = -(-len(piece) // _PIECES)
            for start in range(0, len(piece), step):
                yield piece[start : start + step]
                time.sleep(seconds / _PIECES)

    external_data.places, build.track, artifact._pieces = remember, count, slowly


def _pause(log: Path, address: str, when: str, number: int) -> None:
    """Stop before or after the so-manieth call of a function, until told to go on."""
    module, _, names = address.partition(":")
    holder = importlib.import_module(module)
    *classes, name = names.split(".")
    for holder_name in classes:
        holder = getattr(holder, holder_name)
    function, calls = getattr(holder, name), []

    def wait() -> None:
        log.with_suffix(".paused").touch()
        until = time.monotonic() + _WAIT_SECONDS
        while not log.with_suffix(".go").exists():
            assert time.monotonic() < until, f"nobody killed {address}"
            time.sleep(0.002)

    def paused(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        is_it = len(calls) == number
        if is_it and when == "before":
            wait()
        result = function(*arguments, **options)
        if is_it and when == "after":
            wait()
        return result

    setattr(holder, name, paused)


if __name__ == "__main__":
    main()
