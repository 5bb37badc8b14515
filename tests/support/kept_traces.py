"""Gives a process that traces the graph that this run of the tests has of the same model already.

A copy of this file, as sitecustomize.py, lies beside the graphs, in a folder that is on the
PYTHONPATH of all processes that tests start: Python runs it before anything else.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

_TRACER = "tramontane.export.trace.trace"


def name_of(asked: bytes) -> str:
    """The name of a graph among those that are kept, by what a tracing process is asked."""
    import hashlib

    return f"graph-{hashlib.sha256(asked).hexdigest()}"


def main() -> int:
    """Write the graph that is asked for, traced first where there is none yet."""
    import filelock
    from tramontane.console.processes.end_with_parent import command_of, end_with_parent

    end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asked = sys.stdin.buffer.read()
    path = Path(__file__).with_name(name_of(asked))
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            traces = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
            done = subprocess.run(
                command_of(_TRACER), input=asked, stdout=subprocess.PIPE, env=traces, check=False
            )
            if done.returncode:
                return abs(done.returncode)
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_bytes(done.stdout)
            unfinished.rename(path)
    sys.stdout.buffer.write(path.read_bytes())
    sys.stdout.flush()
    return 0


if sys.orig_argv[-1] == _TRACER:
    os._exit(main())
