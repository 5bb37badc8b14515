"""Ends a process when the one that started it is gone, however that ended. (stdlib only)"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

_EVERY_S = 0.2


def command_of(module: str) -> list[str]:
    """A command that runs a module in a process that ends with this one.

    It watches from before the module is imported, which may take long.
    """
    # -P: a json.py beside the weights, say, is nothing that we run.
    return [sys.executable, "-P", "-m", __name__, str(os.getpid()), module]


def end_with_parent(parent: int) -> None:
    """Watch, from a thread, whether the process of that number is still the parent.

    A process that is killed by SIGKILL cannot end those that it started.
    """
    if os.name != "nt":  # where nobody else takes over a process that lost its parent
        threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY_S)
    os._exit(1)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # Ctrl-C ends the parent too, which says so: no traceback beside it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
