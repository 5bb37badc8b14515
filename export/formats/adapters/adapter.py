"""An adapter's folder: its tensors, by the module of the base model that they change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ....runtime.errors import CheckpointError, ConfigError
from ....runtime.untrusted.files import refuse_impossible
from ...files.held_files import HeldFiles
from ..weight_files import safetensors_file, torch_file
from ..weight_files.shards import TYPES, Series, find_tensors
from ..weight_files.stored_tensor import TensorSource
from ..wrappers import plain
from .lora_config import CONFIG_FILE, MERGE, LoraConfig, read_lora_config

SERIES = (
    Series(stem="adapter_model", suffix="safetensors", read_headers=safetensors_file.read_headers),
    Series(stem="adapter_model", suffix="bin", read_headers=torch_file.read_headers),
)
# Source: PEFT 0.21, utils/save_and_load.py; an adapter's own name may stand inside.
_MATRIX = re.compile(r"(?P<module>.+)\.lora_(?P<side>A|B)(\.[^.]+)?\.weight")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<side>A|B)(\.[^.]+)?")
_SAVED = re.compile(r"(?P<module>.+?)(\.base_layer|\.modules_to_save(\.[^.]+)?)?\.weight")
_PEFT = "base_model.model."


@dataclass(frozen=True, kw_only=True, slots=True)
class Low:
    """The two matrices of one module."""

    a: TensorSource
    b: TensorSource
    is_embedding: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """One adapter, not yet compared with a base model; modules have Hugging Face's names."""

    folder: Path
    config: LoraConfig
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()  # for the user, on what was not read
    low: Mapping[str, Low] = field(default_factory=dict)
    saved: Mapping[str, TensorSource] = field(default_factory=dict)  # whole weights


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter's description and its weights."""
    return (folder / CONFIG_FILE).is_file() and any(one.is_in(folder) for one in SERIES)


def open_adapter(folder: Path, held: HeldFiles) -> Adapter:
    """Read an adapter's config and the headers of its tensors; its files are held from now on.

    Raises:
        ConfigError: there is no adapter, or it is no plain LoRA.
        CheckpointError: its weights are missing or unreadable, a tensor is not one of a LoRA, or
            one of two matrices is missing.
    """
    refuse_impossible(folder, error=ConfigError, option="--adapter")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            f"--adapter {folder}: holds no {CONFIG_FILE}, expected the folder of a LoRA adapter "
            "as PEFT saves it"
        )
    config = read_lora_config(held.hold(path))
    shards = find_tensors(folder, SERIES, held)
    for message in shards.twice.values():
        raise CheckpointError(message)
    tensors = shards.tensors
    sides: dict[tuple[str, bool], dict[str, TensorSource]] = {}
    saved: dict[str, TensorSource] = {}
    for own, tensor in tensors.items():
        name = plain(own).removeprefix(_PEFT)
        if tensor.dtype not in TYPES:
            raise CheckpointError(
                f"{tensor.path}: {own} is of type {tensor.dtype}, expected one of "
                f"{', '.join(TYPES)}; {MERGE}"
            )
        if found := _MATRIX.fullmatch(name) or _EMBEDDING.fullmatch(name):
            key = (found["module"], "lora_embedding" in name)
            _put(sides.setdefault(key, {}), found["side"], tensor)
        elif ".lora_" not in name and (found := _SAVED.fullmatch(name)):
            _put(saved, found["module"], tensor)
        else:
            raise CheckpointError(
                f"{tensor.path}: {own} is no matrix of a LoRA and no saved weight, expected those "
                f"alone; {MERGE}"
            )
    for (module, is_embedding), both in sides.items():
        if is_embedding and (module, False) in sides:
            raise CheckpointError(
                f"{folder}: {module} has matrices of an embedding and of a linear layer, expected "
                "those of one; download the adapter again"
            )
        if len(both) < 2:
            raise CheckpointError(
                f"{folder}: {module} has one of the matrices lora_A and lora_B, expected both; "
                "download the adapter again"
            )
    if not tensors:
        raise CheckpointError(f"{folder}: holds no tensors, expected a LoRA; download it again")
    index = [] if shards.index is None else [shards.index]
    files = sorted({path, *index, *(tensor.path for tensor in tensors.values())})
    low = {m: Low(a=s["A"], b=s["B"], is_embedding=e) for (m, e), s in sides.items()}
    return Adapter(
        folder=folder,
        config=config,
        files=tuple(files),
        notes=shards.notes,
        low=low,
        saved=saved,
    )


def _put(found: dict[str, TensorSource], key: str, tensor: TensorSource) -> None:
    """Refuse a second tensor for one place, such as that of another adapter in the file."""
    if key in found:
        raise CheckpointError(
            f"{tensor.path}: {found[key].name} and {tensor.name} are for one place, expected the "
            "tensors of one adapter; save each adapter in a folder of its own"
        )
    found[key] = tensor
