"""Ends a process when the one that started it is gone, however that ended. (stdlib only)"""

from __future__ import annotations

import os
import threading
import time

_EVERY_S = 0.2


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
