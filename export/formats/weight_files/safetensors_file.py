"""Headers of the tensors in a safetensors file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from ....runtime.errors import CheckpointError
from ....runtime.untrusted.json_text import parse_object
from ...files.held_files import HeldFile
from .stored_tensor import StoredTensor


def read_headers(file: HeldFile) -> list[StoredTensor]:
    """Read a file's header.

    Raises:
        CheckpointError: it is unreadable.

    Source: safetensors' README, section "Format".
    """
    _refuse_unreadable(file.path)
    length = int.from_bytes(file.read_bytes(8), "little")
    header = file.read_bytes(length, offset=8)
    entries = parse_object(header, what=f"{file.path}: header", error=CheckpointError)
    entries.pop("__metadata__", None)
    return [
        StoredTensor(
            file=file,
            name=name,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            offset=8 + length + entry["data_offsets"][0],
            size=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in entries.items()
    ]


def _refuse_unreadable(path: Path) -> None:
    """Have the format's own library compare header and file; where tensors lie it keeps."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: unreadable ({error}), expected a safetensors file; download it again"
        ) from error
