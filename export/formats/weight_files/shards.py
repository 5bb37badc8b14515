"""Finds a model's files of weights: one file, or several with or without an index."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ....runtime.errors import CheckpointError, ContractError
from ....runtime.untrusted.files import is_file
from ....runtime.untrusted.json_text import SMALL_BYTES, parse_object
from ...files.held_files import HeldFile, HeldFiles
from . import safetensors_file, torch_file
from .stored_tensor import StoredTensor, StridedTensor

TYPES = ("F32", "F16", "BF16", "F64")
Tensor = StoredTensor | StridedTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Names of files that hold a model's weights, and how one of them is read."""

    stem: str
    suffix: str
    read_headers: Callable[[HeldFile], Sequence[Tensor]]

    def single(self, folder: Path) -> Path:
        """The file that holds all."""
        return folder / f"{self.stem}.{self.suffix}"

    def index(self, folder: Path) -> Path:
        """The list of tensors in several files."""
        return folder / f"{self.stem}.{self.suffix}.index.json"

    def numbered(self, folder: Path) -> list[Path]:
        """Several files, by their names: ``model-00001-of-00002.safetensors``."""
        found = folder.glob(f"{self.stem}-[0-9]*-of-[0-9]*.{self.suffix}")
        return sorted(path for path in found if _total(path.name))

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds any of these."""
        named = (self.single(folder), self.index(folder))
        return any(path.is_file() for path in named) or bool(self.numbered(folder))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """The tensors of a model's files."""

    tensors: dict[str, Tensor]
    index: Path | None = None  # that was read
    twice: dict[str, str] = field(default_factory=dict)  # why a tensor cannot be read, by name
    notes: tuple[str, ...] = ()  # for the user, on what was not read


# In the order in which transformers looks for them.
HUGGING_FACE = (
    Series(stem="model", suffix="safetensors", read_headers=safetensors_file.read_headers),
    Series(stem="pytorch_model", suffix="bin", read_headers=torch_file.read_headers),
)
_PARALLEL = "consolidated.{:02}"  # one file for each GPU, which holds rows or columns of matrices
MISTRAL = (
    Series(stem="consolidated", suffix="safetensors", read_headers=safetensors_file.read_headers),
    Series(stem=_PARALLEL.format(0), suffix="pth", read_headers=torch_file.read_headers),
)


def has_weights(folder: Path, every: Sequence[Series]) -> bool:
    """Whether a folder holds files of weights."""
    return any(series.is_in(folder) for series in every)


def find_tensors(folder: Path, every: Sequence[Series], held: HeldFiles) -> Shards:
    """Header by name of every tensor of the first series, whose files are held from now on.

    One file is preferred to an index, as in transformers.

    Raises:
        CheckpointError: there are no files, some are missing, or one is unreadable; the index is
            invalid, points outside the folder or contradicts the files.
    """
    series = next((one for one in every if one.is_in(folder)), None)
    if series is None:
        names = " or ".join(one.single(folder).name for one in every)
        raise CheckpointError(
            f"{folder}: holds no weights, expected {names}, or several files and their index; "
            "other formats must be saved as safetensors first"
        )
    _refuse_parallel(folder, series)
    single, index, numbered = series.single(folder), series.index(folder), series.numbered(folder)
    if single.is_file():
        others = [path.name for path in (index, *numbered) if path.is_file()]
        notes = [f"{single}: is read, and not {n} beside it, as in transformers" for n in others]
        tensors = {tensor.name: tensor for tensor in series.read_headers(held.hold(single))}
        return Shards(tensors=tensors, notes=tuple(notes[:1]))
    if index.is_file():
        weight_map = _weight_map(held.hold(index), {path.name for path in numbered})
        listed = set(weight_map.values())
        totals = {_total(name) for name in listed}
        listed |= {path.name for path in numbered if _total(path.name) in totals}
        found = _headers(series, [folder / name for name in sorted(listed)], held)
        _refuse_other_places(index, weight_map, found)
        return _shards(found, folder, index=index)
    _refuse_missing(folder, numbered)
    shards = _shards(_headers(series, numbered, held), folder)
    for message in shards.twice.values():  # no index says which one is meant
        raise CheckpointError(message)
    return shards


def _refuse_parallel(folder: Path, series: Series) -> None:
    """Refuse matrices that are cut for several GPUs: no file says along which side."""
    second = folder / f"{_PARALLEL.format(1)}.{series.suffix}"
    if series.stem == _PARALLEL.format(0) and second.is_file():
        raise CheckpointError(
            f"{second}: is one of several files that hold parts of each matrix, expected "
            f"{series.single(folder).name} alone; export the model's folder in Hugging Face's "
            "layout instead"
        )


def _headers(series: Series, paths: Sequence[Path], held: HeldFiles) -> dict[str, list[Tensor]]:
    """All tensors of several files, by name."""
    found: dict[str, list[Tensor]] = {}
    for path in paths:
        for tensor in series.read_headers(held.hold(path)):
            found.setdefault(tensor.name, []).append(tensor)
    return found


def _shards(found: dict[str, list[Tensor]], folder: Path, index: Path | None = None) -> Shards:
    twice = {
        name: (
            f"{folder}: {name} is in {tensors[0].path.name} and in {tensors[1].path.name}, "
            "expected it once; remove the file of the other model"
        )
        for name, tensors in found.items()
        if len(tensors) > 1
    }
    first = {name: tensors[0] for name, tensors in found.items()}
    return Shards(tensors=first, index=index, twice=twice)


def _total(name: str) -> str:
    """How many files there are, by the name of one: ``00002``."""
    found = re.search(r"-\d+-of-(\d+)\.[a-z]+$", name)
    return found[1] if found else ""


def _refuse_missing(folder: Path, numbered: list[Path]) -> None:
    """Without an index, the names say how many files there are."""
    names = {path.name for path in numbered}
    totals = sorted({_total(name) for name in names})
    if len(totals) > 1:
        raise CheckpointError(
            f"{folder}: holds files of {len(totals)} saved models, in {' and in '.join(totals)} "
            "parts, expected those of one; remove the others"
        )
    first = numbered[0].name
    start, end = first[: first.rindex("-of-")].rpartition("-")[0], first[first.rindex("-of-") :]
    wanted = (f"{start}-{n:0{len(totals[0])}}{end}" for n in range(1, int(totals[0]) + 1))
    if missing := next((name for name in wanted if name not in names), None):
        raise CheckpointError(
            f"{folder}: {missing} is missing, expected all {int(totals[0])} files; download it"
        )


def _removal(index: Path) -> str:
    """How to get rid of an index; files that are numbered are read without one."""
    return f"remove it (rm {shlex.quote(str(index))})"


def _weight_map(file: HeldFile, numbered: set[str]) -> dict[str, str]:
    """File name by name of the tensor, as the index has it; every file is in the folder."""
    index = file.path
    try:
        weight_map = parse_object(file.read_bytes(most=SMALL_BYTES), what="it")["weight_map"]
        names = set(weight_map.values())
    except (ContractError, KeyError, TypeError, AttributeError) as error:
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
        if not is_file(index.parent / name):
            stale = ""
            if others := sorted(numbered - names):
                stale = f", or, if {others[0]} is of a model saved later, {_removal(index)}"
            raise CheckpointError(
                f"{index}: names {name}, which is missing, expected it beside the index; "
                f"download it{stale}"
            )
    return dict(weight_map)


def _refuse_other_places(
    index: Path, weight_map: dict[str, str], found: dict[str, list[Tensor]]
) -> None:
    """Refuse an index that says of a tensor that it is where it is not.

    One that names a tensor that is nowhere, or leaves one out, contradicts nothing.
    """
    wrong = {
        name: shard
        for name, shard in weight_map.items()
        if name in found and shard not in {tensor.path.name for tensor in found[name]}
    }
    if wrong:
        name, shard = min(wrong.items())
        raise CheckpointError(
            f"{index.with_name(shard)}: {name} is not in this file but in "
            f"{found[name][0].path.name}, unlike in {index.name}, expected them to agree "
            f"({len(wrong)} such tensors in all); an index of another model is stale: "
            f"{_removal(index)}, since files that are numbered are read without it"
        )
