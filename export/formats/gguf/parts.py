"""Finds the files of a GGUF model: one file, whatever its name, or numbered parts.

Parts are named ``NAME-00001-of-00003.gguf``; the first holds all metadata.

Source: llama.cpp, include/llama.h (``llama_split_path``) and src/llama-model-loader.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ....runtime.errors import CheckpointError, ConfigError
from ....runtime.untrusted.fields import shown
from ...files.held_files import HeldFiles
from ...files.metadata_fields import number as whole_number
from ..weight_files.stored_tensor import StoredTensor
from .file import GgufFile, read_gguf

SUFFIX = ".gguf"  # in upper or lower case
_MAGIC = b"GGUF"
_PART = re.compile(rf"(.+)-(\d{{5}})-of-(\d{{5}})({re.escape(SUFFIX)})", re.IGNORECASE)
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"


def is_gguf(path: Path) -> bool:
    """Whether a file is named as GGUF, or begins as GGUF does (a blob of Ollama has no suffix)."""
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def models_in(folder: Path) -> list[Path]:
    """One file of each model in a folder: of numbered parts, the first that is there."""
    models: dict[object, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == SUFFIX and path.is_file():
            part = _PART.fullmatch(path.name)
            models.setdefault(path.name if part is None else part.group(1, 3), path)
    return list(models.values())


def read_parts(path: Path, held: HeldFiles) -> tuple[GgufFile, tuple[Path, ...]]:
    """Read metadata and headers of a model, of which one file is named; all are held.

    Returns:
        The model, as if it were one file, named as the first part is; and its files.

    Raises:
        CheckpointError: as ``read_gguf``; a part is missing, or of another model.
    """
    named = read_gguf(held.hold(path))
    count = _count(named)
    if count in (0, 1):
        return named, (path,)
    paths = _paths_of_all(path, count)
    parts = [read_gguf(held.hold(each)) for each in paths]
    for number, part in enumerate(parts):
        found = [part.metadata.get(key) for key in (_NUMBER, _COUNT)]
        if found != [number, count]:
            raise CheckpointError(
                f"{part.path}: {_NUMBER} is {shown(found[0])} and {_COUNT} {shown(found[1])}, "
                f"expected {number} and {count}, as its name says; download it again"
            )
    tensors = _joined(parts)
    total = parts[0].metadata.get(_TENSORS)
    if total is not None and total != len(tensors):
        raise CheckpointError(
            f"{paths[0]}: {_TENSORS} is {shown(total)}, but its {count} parts hold "
            f"{len(tensors)}, expected as many; download all parts of one model"
        )
    return GgufFile(path=paths[0], metadata=parts[0].metadata, tensors=tensors), tuple(paths)


def _count(file: GgufFile) -> int:
    """How many parts a model has; files in one piece omit it, or have 0 or 1."""
    try:
        count = int(whole_number(file.metadata, _COUNT, int, 1))
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}; download it again") from error
    if count < 0:
        raise CheckpointError(
            f"{file.path}: {_COUNT} is {count}, expected at least 0; download it again"
        )
    return count


def _paths_of_all(path: Path, count: int) -> list[Path]:
    part = _PART.fullmatch(path.name)
    if part is None or int(part[3]) != count:
        raise CheckpointError(
            f"{path}: is one of {count} parts, expected a name like "
            f"NAME-00001-of-{count:05}{SUFFIX}; give all parts their names back, or merge them "
            "(llama-gguf-split --merge)"
        )
    names = [f"{part[1]}-{number:05}-of-{part[3]}{part[4]}" for number in range(1, count + 1)]
    paths = [path.with_name(name) for name in names]
    missing = [each.name for each in paths if not each.is_file()]
    if missing:
        raise CheckpointError(
            f"{path.parent}: {missing[0]} is missing ({len(missing)} missing in all), expected "
            f"all {count} parts; download it"
        )
    return paths


def _joined(parts: Sequence[GgufFile]) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for tensor in (each for part in parts for each in part.tensors.values()):
        if (other := found.setdefault(tensor.name, tensor)) is not tensor:
            raise CheckpointError(
                f"{tensor.path}: holds {tensor.name}, which {other.path.name} holds too, expected "
                "it once; download all parts of one model"
            )
    return found
