"""Forks exports from a process that has imported what they need, so that one begins at once.

Run with a checkpoint, whose graph is traced once; requests are those of ``fork_server``.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ..cli import main as cli
from ..cli.commands import export as _export  # noqa: F401  # imported before anything is forked
from ..console.processes.end_with_parent import end_with_parent
from ..export import build
from ..export.cache_choice import WINDOWED
from ..export.formats.checkpoint import Checkpoint
from ..export.planning import preflight
from ..export.sidecars import card as _card  # noqa: F401
from ..export.trace.trace_subprocess import trace_in_subprocess, traced
from ..graphs.targets.all_targets import TARGETS, find_target
from ..graphs.writing import external_data
from .fork_server import interruptible, serve


def main() -> None:
    """Serve until standard input ends."""
    with Checkpoint.open(Path(sys.argv[1])) as checkpoint:
        model = trace_in_subprocess(checkpoint.config, WINDOWED)
    traced.cache_clear()  # exports that trace do so themselves
    for name in TARGETS:
        find_target(name)
    serve(functools.partial(_run, model))


def _run(model: Any, request: dict[str, Any]) -> int:
    end_with_parent(os.getppid())
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, kind in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, kind)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    replaced: list[tuple[Any, str, object]] = []
    if not request["is_traced"]:
        replaced.append((build, "trace_in_subprocess", lambda *_: model))
    if not request["is_room_checked"]:
        replaced += [(one, "refuse_full_disk", _allow) for one in (external_data, preflight)]
        replaced.append((os, "posix_fallocate", _allow))
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        return interruptible(lambda: cli.main(request["arguments"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _allow(*_: object) -> None:
    """Take the place of a function that would refuse."""


if __name__ == "__main__":
    main()
