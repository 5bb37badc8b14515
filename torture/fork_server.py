"""Forks this process, which has imported what an export needs, once for each request.

Each line of standard input is a request in JSON, answered by one line: ``start`` by the fork's
process id, ``wait`` by its exit status, or minus the number of the signal that ended it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(run: Callable[[dict[str, Any]], int]) -> None:
    """Serve until standard input ends.

    Args:
        run: handles a request in the fork, and returns its exit status.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            _, status = os.waitpid(request["pid"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            os._exit(run(request))
