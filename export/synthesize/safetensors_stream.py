"""Writes a safetensors file without holding its tensors, byte for byte as its own writer does.

Ours instead of ``safetensors``' ``save_file``, which takes all tensors of a file in memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...console.progress import track
from ...runtime.errors import CheckpointError
from ...runtime.sizes import format_bytes

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_ALIGNMENT_BYTES = 8  # of the data, so that a reader may map it as numbers
_METADATA = {"format": "pt"}  # transformers reads no file without it


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """What the header says of one tensor."""

    name: str
    dtype: str  # F32, F16 or BF16
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def write_safetensors(
    path: Path,
    entries: Sequence[TensorEntry],
    read: Callable[[TensorEntry], Iterable[memoryview]],
) -> None:
    """Write a file, one piece of one tensor at a time, with progress on standard error.

    Args:
        path: the file, in a folder that exists.
        entries: the tensors in the order in which they shall lie in the file.
        read: a tensor's numbers, row by row and little-endian, in pieces of any size.

    Raises:
        CheckpointError: the disk is full, or does not take the file for another reason.

    Source: the format's description, https://huggingface.co/docs/safetensors: the header's length
        in 8 bytes, little-endian; the header, JSON padded with spaces; the tensors without gaps.
    """
    header = _header(entries)
    total_bytes = len(header) + sum(entry.num_bytes for entry in entries)
    try:
        with path.open("wb") as file:
            _reserve(file, total_bytes)
            file.write(header)
            for entry in track(entries, f"writing {path.name}"):
                written = sum(file.write(piece) for piece in read(entry))
                assert written == entry.num_bytes, entry
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}), expected to write "
            f"{format_bytes(total_bytes)}; make room, or name another place"
        ) from error


def _header(entries: Sequence[TensorEntry]) -> bytes:
    described: dict[str, object] = {"__metadata__": _METADATA}
    offset = 0
    for entry in entries:
        end = offset + entry.num_bytes
        described[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def _reserve(file: BinaryIO, num_bytes: int) -> None:
    """Allocate the disk space before computing, so that a full disk fails at once."""
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        os.posix_fallocate(file.fileno(), 0, num_bytes)
