"""The exit statuses of commands, and which error gives which. (stdlib only)"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from .. import __version__
from ..runtime.errors import ConfigError, ParityError, TramontaneError, printable
from ..runtime.tokenizers.panics import is_panic
from . import hints
from .streams import accept_any_text

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_BUG, EXIT_INTERRUPTED, EXIT_NOT_READ = 1, 2, 70, 130, 141
MEANINGS = {
    0: "done",
    EXIT_FAILED: "parity failed, a graph has errors, or a benchmark broke a bound",
    EXIT_BAD_INPUT: "an input, an option or this installation cannot be used",
    EXIT_BUG: "a bug in tramontane; the traceback is printed",
    EXIT_INTERRUPTED: "interrupted",
    EXIT_NOT_READ: "the output was closed before its end, as head does",
}
_ELSEWHERE = "name another path"
_NO_MEMORY = "out of memory; close other programs, or use a larger machine"
_FULL, _CLOSED = "make room on that disk", "check who may write there, or name another place"
_OF_THE_MACHINE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EROFS: _CLOSED,
    errno.EIO: "check that disk",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs",
}


def status_of(
    main: Callable[[], int], *, name: str = "this command", as_json: bool = False
) -> int:
    """Run a command and return its exit status, or that of the error that stopped it.

    Args:
        main: the command.
        name: what messages call it.
        as_json: print the error as a line of JSON on standard output too.

    Returns:
        One of ``MEANINGS``.
    """
    accept_any_text()
    try:
        hints.refuse_unreadable()
    except ConfigError as error:  # no notes beside it: they follow from what cannot be read
        complain(str(error), has_note=False)
        return EXIT_BAD_INPUT
    try:
        return _flushed(main)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # how rich ends where nobody reads
            return EXIT_NOT_READ
        raise
    except BrokenPipeError:
        _drop(sys.stdout)
        return EXIT_NOT_READ
    except KeyboardInterrupt:
        return interrupted()
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        status, message = _judge(error, name)
        if status == EXIT_BUG:
            traceback.print_exc()
        complain(message)
        try:
            if as_json:
                print(json.dumps({"error": type(error).__name__, "message": message}))
            print(end="", flush=True)
        except OSError:
            _drop(sys.stdout)
        return status


def _flushed(main: Callable[[], int]) -> int:
    """Run a command, and write what its output still holds, as after ``--help``.

    Raises:
        OSError: standard output is full or closed.
    """
    try:
        status = main()
    except SystemExit as stop:
        if stop.__context__ is None:
            print(end="", flush=True)
        raise
    print(end="", flush=True)
    return status


def interrupted() -> int:
    """Say that Ctrl-C was pressed; the exit status."""
    print("\ntramontane: interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def _drop(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere; Python would fail on it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(message: str, *, has_note: bool = True, prog: str = "tramontane") -> None:
    """Print an error on standard error, with make's names for its flags where make calls."""
    note = hints.names_in_make(message) if has_note else ""
    try:
        for text in (message, note) if note else (message,):
            print(f"{prog}: {text}", file=sys.stderr, flush=True)
    except OSError:  # closed, or on a full disk: the exit status alone says what happened
        _drop(sys.stderr)


def status_of_refusal(error: TramontaneError) -> int:
    """The exit status that one of our errors gives."""
    return EXIT_FAILED if isinstance(error, ParityError) else EXIT_BAD_INPUT


def _judge(error: BaseException, name: str) -> tuple[int, str]:
    """The exit status that an error gives, and the message about it."""
    if isinstance(error, TramontaneError):
        return status_of_refusal(error), str(error)
    if isinstance(error, ModuleNotFoundError) and _is_absent(error.name):
        return EXIT_BAD_INPUT, (
            f"{name} needs the package {error.name}, which is not installed; install what all "
            f"commands need ({hints.install()})"
        )
    if isinstance(error, OSError) and (error.filename or error.errno in _OF_THE_MACHINE):
        return EXIT_BAD_INPUT, printable(_of_the_system(error))
    if isinstance(error, MemoryError) or is_panic(error):
        return EXIT_BAD_INPUT, _NO_MEMORY if isinstance(error, MemoryError) else printable(
            f"tokenizer.json: the package tokenizers cannot run it ({error}), expected a file "
            "that it runs; download it again"
        )
    return EXIT_BUG, (
        "this is a bug: please report it with the lines above, the command, and the versions "
        f"(tramontane {__version__}, Python {platform.python_version()}, {platform.platform()})"
    )


def _of_the_system(error: OSError) -> str:
    """What the operating system refused, at which paths, and what to do."""
    names = (error.filename, error.filename2)
    paths = [os.fsdecode(name) for name in names if isinstance(name, (str, bytes, os.PathLike))]
    where = " to ".join(paths) or "a file or standard output"
    return f"{where}: {error.strerror}; {_OF_THE_MACHINE.get(error.errno or 0, _ELSEWHERE)}"


def _is_absent(module: str | None) -> bool:
    """Whether a third-party package is not installed; a missing module of ours is a bug."""
    top = (module or "").partition(".")[0]
    if not top or top == "tramontane":
        return False
    try:
        return importlib.util.find_spec(top) is None
    except (ImportError, ValueError):  # its finder or itself is broken
        return True
