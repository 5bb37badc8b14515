"""Reads a GGUF file: its metadata, and its tensors row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gguf

from ....runtime.errors import CheckpointError
from ..held_files import HeldFile
from ..stored_tensor import StoredTensor

# What llama.cpp's tools write for this family and the gguf package dequantizes.
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufFile:
    """The metadata and the headers of one file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_gguf(file: Path | HeldFile) -> GgufFile:
    """Read metadata and headers; the weights stay on disk.

    Raises:
        CheckpointError: it is no GGUF file, truncated, one of several parts, or of a machine
            that orders bytes the other way.

    Source: ggml, docs/gguf.md, through the gguf package that llama.cpp publishes.
    """
    held = HeldFile(file) if isinstance(file, Path) else file
    path, stream = held.path, cast(Any, held.stream())  # numpy maps streams as well as paths
    try:
        reader = gguf.GGUFReader(stream)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: _header(held, tensor) for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: unreadable ({error}), expected a whole GGUF file of version 2 or 3; "
            "download it again"
        ) from error
    if reader.byte_order != "I":
        raise CheckpointError(
            f"{path}: byte order of another kind of machine, expected this one's; "
            "convert it again here"
        )
    if (parts := metadata.get("split.count", 1)) not in (0, 1):
        raise CheckpointError(
            f"{path}: is one of {parts} parts, expected the whole model; "
            "merge them first (llama-gguf-split --merge)"
        )
    return GgufFile(path=path, metadata=metadata, tensors=tensors)


def _header(file: HeldFile, tensor: gguf.ReaderTensor) -> StoredTensor:
    return StoredTensor(
        file=file,
        name=tensor.name,
        dtype=tensor.tensor_type.name,
        shape=tuple(int(size) for size in reversed(tensor.shape)),  # GGUF has columns first
        offset=int(tensor.data_offset),
        size=int(tensor.n_bytes),
    )
