"""Reads a GGUF file: its metadata, and its tensors row by row."""

from __future__ import annotations

import functools
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

from ....runtime.errors import CheckpointError
from ...files.held_files import HeldFile
from ..gguf_package import gguf
from ..weight_files.stored_tensor import StoredTensor
from .bounds import refuse_unbounded


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufFile:
    """The metadata and the headers of one file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_gguf(file: Path | HeldFile) -> GgufFile:
    """Read metadata and headers; the weights stay on disk.

    Raises:
        CheckpointError: it is no GGUF file, truncated, has a type of tensors that the gguf package
            does not know, or is of a machine that orders bytes the other way.

    Source: ggml, docs/gguf.md, through the gguf package that llama.cpp publishes.
    """
    held = HeldFile(file) if isinstance(file, Path) else file
    path, stream = held.path, cast(Any, held.stream())  # numpy maps streams as well as paths
    refuse_unbounded(held)
    try:
        reader = gguf.GGUFReader(stream)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: _header(held, tensor) for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        if gguf.GGMLQuantizationType.__name__ in str(error):
            raise CheckpointError(_unknown_type(path, error)) from error
        raise CheckpointError(
            f"{path}: unreadable ({error}), expected a whole GGUF file of version 2 or 3; "
            "download it again"
        ) from error
    if reader.byte_order != "I":
        raise CheckpointError(
            f"{path}: byte order of another kind of machine, expected this one's; convert it: "
            f"gguf-convert-endian {shlex.quote(str(path))} native"
        )
    return GgufFile(path=path, metadata=metadata, tensors=tensors)


def _unknown_type(path: Path, error: Exception) -> str:
    """What the package says of a type that is newer than it, or that llama.cpp dropped."""
    return (
        f"{path}: a tensor's type is unknown to gguf {version('gguf')} ({error}), expected one of "
        f"{', '.join(readable_types())}; install the newest gguf, or quantize the model again"
    )


@functools.cache
def readable_types() -> tuple[str, ...]:
    """Types of tensors that the gguf package dequantizes: it is asked with a block of each."""
    return tuple(kind.name for kind in gguf.GGMLQuantizationType if _is_readable(kind))


def _is_readable(kind: gguf.GGMLQuantizationType) -> bool:
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _header(file: HeldFile, tensor: gguf.ReaderTensor) -> StoredTensor:
    return StoredTensor(
        file=file,
        name=tensor.name,
        dtype=tensor.tensor_type.name,
        shape=tuple(int(size) for size in reversed(tensor.shape)),  # GGUF has columns first
        offset=int(tensor.data_offset),
        size=int(tensor.n_bytes),
    )
