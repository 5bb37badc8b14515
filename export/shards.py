"""Which safetensors file holds which tensor, and where in it?"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from .stored_tensor import StoredTensor

TYPES = ("F32", "F16", "BF16")


def index_of(folder: Path, stem: str) -> Path:
    """Where the index of files called ``stem`` is, if there is one."""
    return folder / f"{stem}.safetensors.index.json"


def has_weights(folder: Path, stem: str) -> bool:
    """Whether a folder holds files of tensors called ``stem``."""
    return _single(folder, stem).is_file() or index_of(folder, stem).is_file()


def find_tensors(folder: Path, stem: str) -> dict[str, StoredTensor]:
    """Header by name of every tensor of the files called ``stem``.

    Raises:
        CheckpointError: there are no files, both one and an index of several, or one that is
            unreadable; the index is none, leaves the folder or does not agree with the files.
    """
    single, index = _single(folder, stem), index_of(folder, stem)
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f"{folder}: holds both {single.name} and {index.name}, expected one; "
            "remove the one that is not meant"
        )
    if single.is_file():
        return {tensor.name: tensor for tensor in _headers(single)}
    if not index.is_file():
        raise CheckpointError(
            f"{folder}: holds no weights, expected {single.name} or {index.name}; "
            "other formats must be saved as safetensors first"
        )
    weight_map = _weight_map(index)
    found = [t for name in sorted(set(weight_map.values())) for t in _headers(folder / name)]
    _refuse_other_places(index, weight_map, {(t.name, t.path.name) for t in found})
    return {tensor.name: tensor for tensor in found}


def _single(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.safetensors"


def _headers(path: Path) -> list[StoredTensor]:
    """Read a file's header. Source: safetensors' README, section "Format"."""
    _refuse_unreadable(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return [
        StoredTensor(
            path=path,
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


def _weight_map(index: Path) -> dict[str, str]:
    """File name by name of the tensor, as the index has it; every file is in the folder."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: not an index ({error!r}), expected JSON with a weight_map; "
            "download it again"
        ) from error
    for name in sorted(names, key=str):
        # A plain name cannot leave the folder, on Windows neither.
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:"):
            raise CheckpointError(
                f"{index}: names {name!r}, expected the name of a file in the same folder; "
                "do not trust this checkpoint"
            )
        if not (index.parent / name).is_file():
            raise CheckpointError(
                f"{index}: names {name}, which is missing, expected it beside the index; "
                "download it"
            )
    return dict(weight_map)


def _refuse_other_places(
    index: Path, weight_map: dict[str, str], held: set[tuple[str, str]]
) -> None:
    promised = set(weight_map.items())
    if held != promised:
        name, shard = min(held ^ promised)
        raise CheckpointError(
            f"{index.with_name(shard)}: {name} is "
            + ("here but not in" if (name, shard) in held else "not here, as against")
            + f" {index.name}, expected them to agree; download both again"
        )
