"""Find the tensors of safetensors files: one file, or several with or without an index."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ...runtime.errors import CheckpointError
from .held_files import HeldFile, HeldFiles
from .stored_tensor import StoredTensor

TYPES = ("F32", "F16", "BF16", "F64")


def index_of(folder: Path, stem: str) -> Path:
    """Where the index of files called ``stem`` is, if there is one."""
    return folder / f"{stem}.safetensors.index.json"


def has_weights(folder: Path, stem: str) -> bool:
    """Whether a folder holds files of tensors called ``stem``."""
    is_there = _single(folder, stem).is_file() or index_of(folder, stem).is_file()
    return is_there or bool(_numbered(folder, stem))


def find_tensors(folder: Path, stem: str, held: HeldFiles) -> dict[str, StoredTensor]:
    """Header by name of every tensor of the files called ``stem``, which are held from now on.

    Raises:
        CheckpointError: there are no files, some are missing, there are both one and an index of
            several, or one is unreadable; the index is none, leaves the folder or does not agree
            with the files; or two files hold one tensor.
    """
    single, index, numbered = (
        _single(folder, stem),
        index_of(folder, stem),
        _numbered(folder, stem),
    )
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f"{folder}: holds both {single.name} and {index.name}, expected one; where the model "
            f"was saved again as one file, the index is stale: {_removal(index)}"
        )
    if single.is_file():
        return {tensor.name: tensor for tensor in _headers(held.hold(single))}
    if index.is_file():
        weight_map = _weight_map(held.hold(index), {path.name for path in numbered})
        names = sorted(set(weight_map.values()))
        found = [tensor for name in names for tensor in _headers(held.hold(folder / name))]
        _refuse_other_places(index, weight_map, {(t.name, t.path.name) for t in found})
        return {tensor.name: tensor for tensor in found}
    if not numbered:
        raise CheckpointError(
            f"{folder}: holds no weights, expected {single.name} or {index.name}; "
            "other formats must be saved as safetensors first"
        )
    _refuse_missing(folder, stem, numbered)
    return _unique(folder, (tensor for path in numbered for tensor in _headers(held.hold(path))))


def _numbered(folder: Path, stem: str) -> list[Path]:
    """Files of a model in several, by their names: ``model-00001-of-00002.safetensors``."""
    return sorted(folder.glob(f"{stem}-[0-9]*-of-[0-9]*.safetensors"))


def _refuse_missing(folder: Path, stem: str, numbered: list[Path]) -> None:
    """Without an index, the names say how many files there are."""
    names = {path.name for path in numbered}
    totals = sorted({re.split(r"-of-|\.", name)[1] for name in names})
    if len(totals) > 1:
        raise CheckpointError(
            f"{folder}: holds files of {len(totals)} saved models, in {' and in '.join(totals)} "
            "parts, expected those of one; remove the others"
        )
    wanted = (
        f"{stem}-{number:0{len(totals[0])}}-of-{totals[0]}.safetensors"
        for number in range(1, int(totals[0]) + 1)
    )
    if missing := next((name for name in wanted if name not in names), None):
        raise CheckpointError(
            f"{folder}: {missing} is missing, expected all {int(totals[0])} files; download it"
        )


def _unique(folder: Path, tensors: Iterable[StoredTensor]) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for tensor in tensors:
        if (other := found.setdefault(tensor.name, tensor)) is not tensor:
            raise CheckpointError(
                f"{folder}: {tensor.name} is in {other.path.name} and in {tensor.path.name}, "
                "expected it once; remove the file of the other model"
            )
    return found


def _removal(index: Path) -> str:
    """How to get rid of an index; files that are numbered are read without one."""
    return f"remove it (rm {shlex.quote(str(index))})"


def _single(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.safetensors"


def _headers(file: HeldFile) -> list[StoredTensor]:
    """Read a file's header. Source: safetensors' README, section "Format"."""
    _refuse_unreadable(file.path)
    length = int.from_bytes(file.read_bytes(8), "little")
    entries = json.loads(file.read_bytes(length, offset=8))
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


def _weight_map(file: HeldFile, numbered: set[str]) -> dict[str, str]:
    """File name by name of the tensor, as the index has it; every file is in the folder."""
    index = file.path
    try:
        weight_map = json.loads(file.read_bytes())["weight_map"]
        names = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: not an index ({error!r}), expected JSON with a weight_map; "
            f"{_removal(index)}, since files that are numbered are read without it"
        ) from error
    for name in sorted(names, key=str):
        # A plain name cannot leave the folder, on Windows neither.
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:"):
            raise CheckpointError(
                f"{index}: names {name!r}, expected the name of a file in the same folder; "
                "do not trust this checkpoint"
            )
        if not (index.parent / name).is_file():
            stale = ""
            if others := sorted(numbered - names):
                stale = f", or, if {others[0]} is of a model saved later, {_removal(index)}"
            raise CheckpointError(
                f"{index}: names {name}, which is missing, expected it beside the index; "
                f"download it{stale}"
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
            + (
                "in this file, but not in"
                if (name, shard) in held
                else "not in this file, unlike in"
            )
            + f" {index.name}, expected them to agree ({len(held ^ promised)} such tensors in "
            "all); an index of another model is stale: "
            f"{_removal(index)}, since files that are numbered are read without it"
        )
