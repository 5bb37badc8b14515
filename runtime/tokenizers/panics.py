"""Turns panics of the package ``tokenizers``, which is written in Rust, into errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import TramontaneError, printable

_SAID = 300  # characters of what the package says
_PANIC = "PanicException"  # of pyo3, which gives every extension module one of its own


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic of Rust code, which is no ``Exception``."""
    return type(error).__name__ == _PANIC


@contextlib.contextmanager
def panics_as(kind: type[ValueError] | type[TramontaneError], message: str) -> Iterator[None]:
    """Raise what ``tokenizers`` raises, panics included, as another error.

    Args:
        kind: of the error.
        message: with ``{said}`` where the package's words belong.

    Raises:
        kind: the package failed.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        said = printable(str(error), most=_SAID)
        raise kind(message.replace("{said}", said)) from error
