"""Has one of our modules compute an answer in a process of its own. (stdlib only)

The process that asks calls ``ask_module``, and the module ``answer_asked``. The answer is bytes,
or one of our errors, which is raised again where it was asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ...runtime import errors
from ...runtime.errors import TraceError, TramontaneError
from ..streams import accept_any_text
from .end_with_parent import command_of

_REFUSED = 3  # exit status of a process whose standard output is one of our errors


def ask_module(
    module: str,
    asked: bytes,
    *,
    what: str,
    shows_progress: bool = False,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """The answer of a module that calls ``answer_asked``.

    Args:
        module: its full name.
        asked: JSON, which it gets.
        what: what it does, for messages.
        shows_progress: whether its standard error goes to ours, instead of into the message.
        env: its environment; None: ours.

    Raises:
        TramontaneError: what the module raised, of the same type, with the same message.
        TraceError: the process was ended, or failed otherwise.
    """
    done = subprocess.run(
        command_of(module),
        input=asked,
        stdout=subprocess.PIPE,
        stderr=None if shows_progress else subprocess.PIPE,
        check=False,
        env=env,
    )
    if done.returncode == _REFUSED:
        name, message = json.loads(done.stdout)
        refusal: type[TramontaneError] = getattr(errors, name)
        raise refusal(message)
    if done.returncode < 0:
        raise TraceError(
            f"{what} was ended by signal {-done.returncode}, expected it to finish; "
            "if you did not stop it, memory ran out: close other programs and try again"
        )
    if done.returncode:
        output = "" if shows_progress else done.stderr.decode(errors="replace").strip()
        raise TraceError(
            f"{what} ended with status {done.returncode}, expected 0; this is a bug, report it "
            + ("with the lines above" if shows_progress else f"with this: {output}")
        )
    return done.stdout


def answer_asked(answer: Callable[[Any], bytes]) -> int:
    """Read JSON from standard input, write the answer or our error to standard output; the status.

    Args:
        answer: computes it. What packages print meanwhile goes to standard error.
    """
    accept_any_text()
    asked = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            out.write(answer(asked))
        except TramontaneError as error:
            out.write(json.dumps([type(error).__name__, str(error)]).encode())
            return _REFUSED
    return 0
