"""How does a graph reach the disk? Beside its final name first, then renamed when whole."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import onnx_ir as ir

from ..errors import ContractError, GraphError
from ..runtime.contract import DATA_FILE, MANIFEST_FILE, MODEL_FILE
from . import quantize

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector that a kernel loads
_INLINE_BYTES = 1024  # smaller tensors stay in the graph's own file
_SPARE_BYTES = 16 << 20  # for the graph, the tokenizer and the reports

Track = Callable[[Sequence[Any], str], Iterable[Any]]


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out`` that takes its name when the block succeeds.

    An artifact already there stays until then; when the block fails, nothing is left behind.

    Raises:
        ContractError: ``out`` exists and is not an artifact.
    """
    if out.exists() and not (out / MANIFEST_FILE).is_file() and not _is_empty_folder(out):
        raise ContractError(
            f"{out}: exists and is not an artifact (no {MANIFEST_FILE}); name another --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    staging, replaced = (out.with_name(f".{out.name}.{end}") for end in ("partial", "replaced"))
    for leftover in (staging, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        if out.exists():
            out.rename(replaced)
        staging.rename(out)
    finally:
        for leftover in (staging, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def write_graph(model: ir.Model, folder: Path, *, track: Track) -> None:
    """Write ``model.onnx`` and its weights, computing one weight at a time.

    Args:
        model: the finished graph; afterwards its large initializers refer to the file.
        folder: an existing folder.
        track: hands on the weights while showing how far the writing is.

    Raises:
        ContractError: the disk has too little room.
        GraphError: a weight could not be computed as the graph describes it.
    """
    values = initializers_as_read(model.graph)
    large = [v for v in values if _size_in_bytes(v) >= _INLINE_BYTES]
    _refuse_full_disk(folder, sum(_size_in_bytes(v) + ALIGNMENT_BYTES for v in large))
    with (folder / DATA_FILE).open("wb") as file:
        written: dict[bytes, tuple[int, int]] = {}
        for value in track(large, "writing weights"):
            _write_tensor(file, value, written)
    _forget_intermediate_shapes(model.graph)
    ir.save(model, folder / MODEL_FILE)


def initializers_as_read(graph: ir.Graph) -> list[ir.Value]:
    """All weights in the order in which the graph's nodes first read them."""
    seen: dict[ir.Value, None] = {}
    for node in graph:
        for value in node.inputs:
            if value is not None and value.is_initializer():
                seen.setdefault(value)
    return list(seen)


def describe_tensors(graph: ir.Graph, *, quant: str) -> list[dict[str, Any]]:
    """Each weight's shape and bits, its block, or why it stayed in float."""
    described = []
    for value in initializers_as_read(graph):
        tensor = _tensor(value)
        entry: dict[str, Any] = {
            "name": str(value.name),
            "shape": list(tensor.shape.numpy()),
            "bits": int(tensor.dtype.itemsize * 8),
        }
        if tensor.dtype == ir.DataType.UINT8:
            entry["block"] = _block_of(value)
        elif tensor.dtype == ir.DataType.FLOAT:
            entry["why_float"] = _why_float(entry, quant)
        described.append(entry)
    return described


def _block_of(value: ir.Value) -> int | None:
    """The block size that a reader of the codes, or of rows gathered from them, states."""
    for node, _ in value.uses():
        for reader in (node, *node.successors()):
            if "block_size" in reader.attributes:
                return reader.attributes.get_int("block_size")
    return None


def _why_float(entry: dict[str, Any], quant: str) -> str:
    name, shape = entry["name"], entry["shape"]
    if quant == "fp32":
        return "QUANT=fp32"
    if name.endswith(".scales"):
        return "scales of the codes beside it"
    if name in ("cos_cache", "sin_cache"):
        return "rope table: computed, not learned"
    if len(shape) < 2:
        return "a norm's vector: too small to matter"
    return f"its {shape[-1]} columns are not whole blocks of any size in {quantize.BLOCKS}"


def _write_tensor(file: BinaryIO, value: ir.Value, written: dict[bytes, tuple[int, int]]) -> None:
    """Append a tensor, or point at equal bytes that are there already (tied weights)."""
    tensor = _tensor(value)
    content = tensor.numpy().data
    digest = hashlib.sha256(content).digest()
    if digest not in written:
        file.write(b"\0" * (-file.tell() % ALIGNMENT_BYTES))
        written[digest] = (file.tell(), content.nbytes)
        file.write(content)
    offset, length = written[digest]
    value.const_value = ir.ExternalTensor(
        DATA_FILE,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(value.name),
        base_dir=Path(file.name).parent,
    )


def _forget_intermediate_shapes(graph: ir.Graph) -> None:
    """Runtimes infer them; the tracer's symbols would only contradict the contract's names."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _refuse_full_disk(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + _SPARE_BYTES:
        raise ContractError(
            f"{folder.parent}: {free_bytes / 1e6:.0f} MB free, the artifact needs "
            f"{(needed_bytes + _SPARE_BYTES) / 1e6:.0f} MB; make room or name another --out"
        )


def _size_in_bytes(value: ir.Value) -> int:
    return int(_tensor(value).nbytes)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise GraphError(f"initializer {value.name} has no numbers")
    return value.const_value


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
