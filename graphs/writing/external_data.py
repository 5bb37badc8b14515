"""Places of weights in the data files.

Known before any weight is: sizes follow from shapes and types. Weights lie in the order in which
the graph reads them, each at a multiple of ``ALIGNMENT_BYTES``. Weights of whole pages, as nearly
all of Mistral-7B's are, so lie at pages without a byte between them.

Ours instead of ``onnx_ir.external_data``, which lays out and writes in one call: an export
reserves the disk first, resumes at a weight, and hashes the files while it writes them. Files have
the names that transformers.js reads, and small weights are aligned too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ...runtime.contract import DATA_FILE
from ...runtime.errors import ContractError
from ...runtime.sizes import format_bytes
from .. import weights
from .own_folders import free_bytes

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector that a kernel loads
INLINE_BYTES = 1024  # smaller tensors stay in the graph's own file
MOST_FILES = 100  # that transformers.js 4 reads, ``MAX_EXTERNAL_DATA_CHUNKS``
SPARE_BYTES = 16 << 20  # for the graph, the tokenizer and the reports


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one weight's bytes lie, and all initializers that read them."""

    values: tuple[ir.Value, ...]
    file: str  # relative to the artifact's folder
    offset: int
    length: int

    @property
    def name(self) -> str:
        """The first reader's name."""
        return str(self.values[0].name)

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.length


def places(graph: ir.Graph, *, max_shard_bytes: int | None = None) -> list[Place]:
    """Lay out all weights that are large enough to leave the graph's own file.

    Args:
        graph: the finished graph.
        max_shard_bytes: no file grows beyond it; None: one file.

    Raises:
        ContractError: a weight is larger than a file may be, or the files are too many.

    Source: transformers.js 4, external data in several files: ``_data``, ``_data_1``, ...
    """
    groups: dict[ir.Value, list[ir.Value]] = {}
    for value in initializers_as_read(graph):
        if weights.num_bytes(value) >= INLINE_BYTES:
            groups.setdefault(weights.owner(value), []).append(value)
    found: list[Place] = []
    shard, offset = 0, 0
    for values in groups.values():
        length = weights.num_bytes(values[0])
        offset += -offset % ALIGNMENT_BYTES
        if max_shard_bytes is not None and offset and offset + length > max_shard_bytes:
            shard, offset = shard + 1, 0
        if max_shard_bytes is not None and length > max_shard_bytes:
            raise ContractError(
                f"--max-shard {format_bytes(max_shard_bytes)}: {values[0].name} alone takes "
                f"{format_bytes(length)}; a weight is never cut, so ask for that at least"
            )
        file = f"{DATA_FILE}_{shard}" if shard else DATA_FILE
        found.append(Place(values=tuple(values), file=file, offset=offset, length=length))
        offset += length
    if shard >= MOST_FILES:
        total = sum(place.length for place in found)
        raise ContractError(
            f"--max-shard {format_bytes(max_shard_bytes or 0)}: makes {shard + 1} files, expected "
            f"at most {MOST_FILES}, which is what transformers.js reads; ask for "
            f"{format_bytes(2 * total // MOST_FILES)}"
        )
    return found


def sizes(laid_out: Sequence[Place]) -> dict[str, int]:
    """Bytes of each file."""
    return {place.file: place.end for place in laid_out}


def initializers_as_read(graph: ir.Graph) -> list[ir.Value]:
    """All weights in the order in which the graph's nodes first read them."""
    seen: dict[ir.Value, None] = {}
    for node in graph:
        for value in node.inputs:
            if value is not None and value.is_initializer():
                seen.setdefault(value)
    return list(seen)


def preallocate(folder: Path, files: dict[str, int]) -> None:
    """Give every file its full size at once; what a file holds already stays.

    Raises:
        ContractError: the disk has too little room.
    """
    missing = sum(size - _allocated(folder / name) for name, size in files.items())
    refuse_full_disk(folder, missing + SPARE_BYTES)
    for name, size in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size)
        if size and hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)


def refuse_full_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse a folder, which need not exist yet, on a disk with too little room.

    Raises:
        ContractError: naming what is free and what is needed.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise ContractError(
            f"the disk of --out: {format_bytes(free)} free, the artifact needs "
            f"{format_bytes(needed_bytes)} more; make room or name another --out"
        )


def point_at(place: Place, folder: Path) -> None:
    """Let a weight's initializers read the file from now on."""
    for value in place.values:
        tensor = value.const_value
        assert tensor is not None, "places lays out weights alone"
        value.const_value = ir.ExternalTensor(
            Path(place.file).name,
            place.offset,
            place.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=str(value.name),
            base_dir=(folder / place.file).parent,
        )


def _allocated(path: Path) -> int:
    """Bytes of the disk that a file has taken already, if the system reports it."""
    if not path.exists():
        return 0
    status = path.stat()
    return min(status.st_size, getattr(status, "st_blocks", 0) * 512)
