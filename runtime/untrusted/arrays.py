"""Reads files of ``numpy.savez``: bounded by their size; any damage is one typed error."""

from __future__ import annotations

import io
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import ContractError, TramontaneError, printable
from .files import open_regular

_WORDS = 200  # characters of what numpy and zipfile say
# What they raise where a file is missing, damaged, or no archive of arrays.
_DAMAGE = (
    OSError,
    ValueError,  # UnicodeDecodeError too
    TypeError,
    LookupError,
    ArithmeticError,  # OverflowError
    RuntimeError,  # NotImplementedError too
    MemoryError,
    EOFError,
    Warning,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


def read_arrays(
    path: Path, *, error: type[TramontaneError] = ContractError, remedy: str = "remove it"
) -> dict[str, np.ndarray]:
    """The arrays of a file by name, in their order; checksums are those of zip.

    Args:
        path: a regular file.
        error: the type of error that is raised.
        remedy: what messages advise.

    Raises:
        error: it cannot be read, or is damaged.
    """
    try:
        with open(open_regular(path), "rb") as file:
            return _arrays(file, size=os.fstat(file.fileno()).st_size)
    except _DAMAGE as cause:
        raise error(_message(path, cause, remedy)) from cause


def parse_arrays(
    content: bytes,
    *,
    what: object,
    error: type[TramontaneError] = ContractError,
    remedy: str = "remove it",
) -> dict[str, np.ndarray]:
    """The same of what a file holds; ``what`` is how messages call it.

    Raises:
        error: it is damaged.
    """
    try:
        return _arrays(io.BytesIO(content), size=len(content))
    except _DAMAGE as cause:
        raise error(_message(what, cause, remedy)) from cause


def _arrays(file: BinaryIO, *, size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:  # or np.load could take it for another kind of file
        unpacked = sum(one.file_size for one in archive.infolist())
    if unpacked > size:
        raise ValueError(f"{unpacked} bytes in a file of {size}")
    file.seek(0)
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _message(what: object, cause: BaseException, remedy: str) -> str:
    said = printable(str(cause) or type(cause).__name__, most=_WORDS)
    return f"{what}: no arrays can be read ({said}), expected numpy's npz; {remedy}"
