"""Forks this process, which has imported what an export needs, once for each request.

Each line of standard input is a request in JSON, answered by one line: ``start`` by the fork's
process id, ``wait`` by its exit status, or minus the number of the signal that ended it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..console.status import EXIT_INTERRUPTED


def serve(run: Callable[[dict[str, Any]], int]) -> None:
    """Serve until standard input ends.

    Args:
        run: handles a request in the fork, and returns its exit status. SIGINT is blocked in the
            fork until ``run`` calls ``interruptible``.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            _, status = os.waitpid(request["pid"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        if not (pid := os.fork()):
            os._exit(run(request))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        print(pid, flush=True)


def interruptible(command: Callable[[], int]) -> int:
    """Run a command in a fork that is ready for it; its exit status.

    An interrupt that came before ends it like one that came at once. It is none of the command's.
    """
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return command()
