"""float32 arrays in files of the reference's store: made, and opened where they are undamaged."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.untrusted.files import open_regular

Mapped = np.memmap[Any, Any]
_PIECE_BYTES = 1 << 22


def make(path: Path, shape: tuple[int, ...]) -> Mapped:
    """Make a file of zeros, in place of whatever has its name; a link's target stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    header = _header(shape)
    with path.open("xb") as file:
        file.write(header)
        file.truncate(len(header) + _num_bytes(shape))
    return np.memmap(path, np.float32, "r+", len(header), shape)


def open_stored(path: Path, shape: tuple[int, ...], *, is_writable: bool = False) -> Mapped:
    """Map a file that ``make`` made for this shape.

    The header must have the same bytes, so that nothing of a damaged one is parsed.

    Raises:
        OSError: it cannot be read, or is a link or no regular file.
        ValueError: its header or its size is not what ``make`` writes.
    """
    if path.is_symlink():
        raise OSError(None, "is a link", str(path))
    header = _header(shape)
    with open(open_regular(path), "rb") as file:
        is_whole = os.fstat(file.fileno()).st_size == len(header) + _num_bytes(shape)
        if not is_whole or file.read(len(header)) != header:
            raise ValueError(f"{path}: damaged, expected float32 {shape}")
    return np.memmap(path, np.float32, "r+" if is_writable else "r", len(header), shape)


def checksum(path: Path) -> int:
    """CRC-32 of a regular file, read in pieces.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    found = 0
    with open(open_regular(path), "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found = zlib.crc32(piece, found)
    return found


def _header(shape: tuple[int, ...]) -> bytes:
    written = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(written, described)
    return written.getvalue()


def _num_bytes(shape: tuple[int, ...]) -> int:
    return 4 * int(np.prod(shape))
