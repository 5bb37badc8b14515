"""Ctrl-C ends a run of a graph that is in flight, however long it takes. (stdlib only)"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

from ...runtime.ort import stopping

_MOST_BYTES = 64  # read at once, one for each signal


@contextlib.contextmanager
def interrupts_stop_runs(*, after: int = 1) -> Iterator[None]:
    """Stop runs in flight when Ctrl-C was pressed so many times in the block.

    Python then calls its handler of the signal, which without this waits for the run to end.
    Signals are the main thread's; in another one the block just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, written = socket.socketpair()
    written.setblocking(False)
    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    watching = threading.Thread(target=_watch, args=(read, after), daemon=True)
    watching.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        written.close()  # which ends the thread
        watching.join()
        read.close()
        stopping.set_stopped(False)


def _watch(read: socket.socket, after: int) -> None:
    """Count interrupts: Python writes the number of each signal."""
    seen = 0
    while numbers := read.recv(_MOST_BYTES):
        seen += numbers.count(signal.SIGINT)
        if seen >= after:
            stopping.set_stopped(True)
