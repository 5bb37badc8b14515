"""Writes a graph and its weights to disk, one weight at a time."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir

from ...runtime.contract import MODEL_FILE
from ...runtime.errors import GraphError
from .. import weights
from ..quantization.packing import packed_weight
from . import external_data
from .external_data import Place
from .journal import Journal

_SLICE_BYTES = 16 << 20  # copied at once from a weight that does not lie in memory as in the file

Track = Callable[[Sequence[Any], str], Iterable[Any]]


def write_graph(
    model: ir.Model,
    folder: Path,
    *,
    journal: Journal,
    track: Track,
    max_shard_bytes: int | None = None,
) -> dict[str, str]:
    """Write the graph and its weights, computing one weight at a time.

    Args:
        model: the finished graph; afterwards its large initializers refer to the files.
        folder: the artifact's; weights that the journal confirms are there stay.
        journal: begun for this model.
        track: hands on the weights while showing how far the writing is.
        max_shard_bytes: no file of weights grows beyond it; None: one file.

    Returns:
        sha256 of each file of weights, by name.

    Raises:
        ContractError: the disk has too little room, or a weight is larger than a file may be.
        GraphError: a weight could not be computed as the graph describes it.
        CheckpointError: a weight could not be read.
    """
    laid_out = external_data.places(model.graph, max_shard_bytes=max_shard_bytes)
    num_noted = journal.num_noted
    count, digests = journal.resume(folder, laid_out)
    external_data.preallocate(folder, external_data.sizes(laid_out))
    label = "writing weights"
    if num_noted:
        label += f", {count} of {len(laid_out)} already there"
    if count < num_noted:
        label += ", the next one changed since"
    ends = external_data.sizes(laid_out[:count])
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("r+b")) for name in digests}
        for name, file in files.items():
            file.seek(ends.get(name, 0))
        for place in track(laid_out[count:], label):
            _write(files[place.file], place, digests[place.file])
            journal.add(place, digests[place.file].hexdigest())
    packed_weight.forget_latest()
    for place in laid_out:
        external_data.point_at(place, folder)
    _forget_intermediate_shapes(model.graph)
    path = folder / MODEL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, path)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _write(file: BinaryIO, place: Place, digest: hashlib._Hash) -> None:
    """Write a weight behind those before it, and hash what was written, the gap included."""
    start = file.tell()
    if start > place.offset:
        raise GraphError(f"{place.name}: {file.name} is at {start}, expected {place.offset}")
    gap = memoryview(b"\0" * (place.offset - start))
    for piece in itertools.chain([gap], _pieces(weights.stored(place.values[0]))):
        file.write(piece)
        digest.update(piece)
    if file.tell() != place.end:
        raise GraphError(f"{place.name}: ends at {file.tell()}, expected {place.end}")
    file.flush()


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    """An array's bytes in C order, a slice of its rows at a time where they must be copied."""
    if array.flags.c_contiguous:
        yield array.reshape(-1).view(np.uint8).data
        return
    rows = max(1, _SLICE_BYTES // (array.itemsize * int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8).data


def _forget_intermediate_shapes(graph: ir.Graph) -> None:
    """Runtimes infer them; the tracer's symbols would only contradict the contract's names."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
