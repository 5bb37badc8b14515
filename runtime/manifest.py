"""The manifest of an artifact: its fields, and how ``manifest.json`` is written, read and checked.

``manifest.json`` is canonical JSON (sorted keys, two spaces, one newline at the end) that carries
the hash of its own text, so that every changed byte is found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from .budget_fit import BudgetFit
from .contract import CACHE_DTYPES, LARGEST, MANIFEST_FILE, Geometry
from .errors import ContractError, printable
from .memory import MemoryPlan
from .tokenizers.added_tokens import AddedTokens
from .tokenizers.vocabulary import Vocabulary
from .untrusted.fields import decode, shown
from .untrusted.files import is_file, is_name_inside, open_regular, read_file
from .untrusted.json_text import SMALL_BYTES, parse_object

SCHEMA_VERSION = 4
_DIGEST = "manifest_sha256"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeGraph:
    """The second graph, with our own attention kernel."""

    operator_version: int  # that the native library must have
    cache_dtype: str  # as ``Geometry.cache_dtype``: that of the first graph, or half precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that the driver needs besides the graph, and how the artifact was made."""

    quant: str  # the recipe's name
    target: str
    geometry: Geometry
    vocabulary: Vocabulary
    memory: MemoryPlan
    source: dict[str, str]  # sha256 of each file of the checkpoint
    tools: dict[str, str]  # version by package
    tensors: list[dict[str, Any]]  # name, shape, bits, block, and why any stayed in float
    origin: dict[str, Any]  # the checkpoint's name, and its licence and repository where known
    tokenizer_json: str  # where it comes from, or why it was left out
    # Of the files of weights, as ``sizes.py`` defines it; None: written before it was counted.
    bits_per_weight: float | None = None
    recipe: str | None = None  # the text of its file; None: written before it was kept
    budget: BudgetFit | None = None  # that the recipe was made for; None: for no size
    native: NativeGraph | None = None  # None: there is no second graph, or it was not described
    parity: dict[str, Any] | None = None  # headline figures; None: not measured
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # bytes and sha256
    # Hash of the text that was read; empty: made and not read. It is not among the fields written.
    sha256: str = field(default="", compare=False)

    def geometry_of(self, *, is_native: bool) -> Geometry:
        """The sizes of inputs and outputs of one of its graphs."""
        if is_native and self.native is not None:
            return dataclasses.replace(self.geometry, cache_dtype=self.native.cache_dtype)
        return self.geometry

    def memory_of(self, *, is_native: bool) -> MemoryPlan:
        """The memory of a process that decodes from one of its graphs."""
        geometry = self.geometry_of(is_native=is_native)
        if geometry == self.geometry:
            return self.memory
        return self.memory.with_rows_of(self.geometry, geometry)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``; the same manifest gives the same bytes."""
    content = {
        **dataclasses.asdict(manifest),
        "geometry": _describe_geometry(manifest.geometry),
        "vocabulary": _describe_vocabulary(manifest.vocabulary),
        "schema_version": SCHEMA_VERSION,
    }
    del content["sha256"]
    (folder / MANIFEST_FILE).write_text(_text(content), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` of an artifact.

    Raises:
        ContractError: no such folder or file, another schema version, or not the text written.
    """
    path = folder / MANIFEST_FILE
    try:
        is_there = folder.is_dir()
    except (OSError, ValueError) as error:  # a name that no folder can have
        raise ContractError(f"{folder}: {error}; name an artifact written by export") from error
    if not is_there:
        found = "a file, expected a folder" if folder.is_file() else "no such folder"
        raise ContractError(f"{folder}: {found}; run export first, or name an artifact's folder")
    if not path.is_file():
        raise ContractError(
            f"{folder}: not an artifact, it holds no {MANIFEST_FILE}, expected one; name an "
            "artifact written by export"
        )
    text = read_file(path, most=SMALL_BYTES, remedy="export again")
    content = parse_object(text, what=f"{path}: not a manifest", remedy="export again")
    version = content.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise ContractError(
            f"{path}: schema version {shown(version)}, expected {SCHEMA_VERSION}; "
            "use the tramontane that wrote it, or export again"
        )
    digest = content.pop(_DIGEST, None)
    # The text is compared before it is parsed: an older manifest lacks newer fields.
    if _text({**content, "schema_version": version}).encode() != text:
        raise ContractError(f"{path}: changed since it was written; export again")
    try:
        return _parse({**content, "sha256": digest})
    except ContractError as error:
        raise ContractError(f"{path}: not a manifest ({error}); export again") from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file's size and hash with the manifest's.

    Raises:
        ContractError: naming the first file that is missing or differs.
    """
    for name, promised in manifest.files.items():
        path = folder / name
        if not is_file(path):
            raise ContractError(f"{path}: missing, the manifest promises it; copy it again")
        found = describe_file(path, most=promised["bytes"])
        if found != promised:
            raise ContractError(
                f"{path}: {found['bytes']} bytes with sha256 {found['sha256']}, the manifest "
                f"promises {promised['bytes']} bytes with "
                f"{printable(promised['sha256'], most=64)}; copy it again"
            )


def describe_file(path: Path, *, most: int | None = None) -> dict[str, Any]:
    """Size in bytes and sha256 of a regular file, read in small pieces.

    Args:
        path: the file.
        most: bytes that are hashed; None for all. Some files of the system have no end.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    digest, left = hashlib.sha256(), most
    with open(open_regular(path), "rb") as file:
        while piece := file.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES)):
            digest.update(piece)
            left = None if left is None else left - len(piece)
        size_bytes = os.fstat(file.fileno()).st_size
        if left == 0 and size_bytes == most and file.read(1):
            size_bytes += 1  # at least: some files of the system have a size of 0
    return {"bytes": size_bytes, "sha256": digest.hexdigest()}


def to_json(content: Any) -> str:
    """JSON with one spelling for one content."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _text(content: dict[str, Any]) -> str:
    """The text of a manifest, with the hash of the text without it."""
    digest = hashlib.sha256(to_json(content).encode()).hexdigest()
    return to_json({**content, _DIGEST: digest})


class _File(TypedDict):
    bytes: int
    sha256: str


class _Weight(TypedDict):
    name: str
    shape: list[int]
    bits: int


class _Tensor(_Weight, total=False):
    """Quantized values have a block; others may say why they stayed in float."""

    block: int
    why_float: str


def _parse(content: dict[str, Any]) -> Manifest:
    """The manifest, every field of the type that it declares.

    Raises:
        ContractError: naming the first field that is not.
    """
    geometry = _parse_geometry(content.pop("geometry", None))
    vocabulary = decode(Vocabulary, content.pop("vocabulary", None), where="vocabulary")
    decode(list[_Tensor], content.get("tensors"), where="tensors")
    files = decode(dict[str, _File], content.get("files", {}), where="files")
    for name, promised in files.items():
        if not is_name_inside(name):
            raise ContractError(
                f"files names {shown(name)}, expected names of files below the artifact's folder; "
                "do not trust this artifact"
            )
        if promised["bytes"] < 0:
            raise ContractError(f"files.{shown(name)}.bytes is {promised['bytes']}, expected 0")
    _refuse_other_tokens(vocabulary, geometry)
    joined = {"geometry": geometry, "vocabulary": vocabulary}
    manifest: Manifest = decode(Manifest, {**content, **joined}, where="")
    if manifest.native is not None:
        _refuse_cache_dtype("native", manifest.native.cache_dtype)
    return manifest


def _refuse_other_tokens(vocabulary: Vocabulary, geometry: Geometry) -> None:
    """Refuse tokens that no model has; a tokenizer may have more of them than its model."""
    tokens = [*vocabulary.eos_token_ids, *(one.token for one in vocabulary.added_tokens.tokens)]
    for name, named, most in (
        ("bos_token_id", [vocabulary.bos_token_id], geometry.vocab_size),
        ("eos_token_ids and added_tokens", tokens, LARGEST["vocab_size"]),
    ):
        for token in named:
            if token is not None and not 0 <= token < most:
                raise ContractError(f"vocabulary.{name}: {token}, expected 0 to {most - 1}")


def _describe_vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    """The vocabulary as JSON; without ``added_tokens`` where all is as usual."""
    content = dataclasses.asdict(vocabulary)
    if vocabulary.added_tokens == AddedTokens():
        del content["added_tokens"]
    return content


def _describe_geometry(geometry: Geometry) -> dict[str, Any]:
    """The geometry as JSON: one window and one count of rows where all layers have the same."""
    content = dataclasses.asdict(geometry)
    layers, shared = content.pop("layers"), geometry.shared_layout
    differing = {"layers": layers} if shared is None else dataclasses.asdict(shared)
    return {**content, "num_layers": geometry.num_layers, **differing}


def _parse_geometry(content: object) -> Geometry:
    sizes = decode(dict[str, Any], content, where="geometry")
    count = decode(int, sizes.pop("num_layers", None), where="geometry.num_layers")
    _refuse_size("num_layers", count)
    if sizes.get("layers") is None:
        shared = {name: sizes.pop(name, None) for name in ("window", "rows")}
        sizes["layers"] = [shared] * count
    geometry: Geometry = decode(Geometry, sizes, where="geometry")
    for name in LARGEST:
        found = getattr(geometry, name)
        for size in found if isinstance(found, tuple) else (found,):
            _refuse_size(name, size)
    _refuse_cache_dtype("geometry", geometry.cache_dtype)
    return geometry


def _refuse_cache_dtype(where: str, dtype: str) -> None:
    if dtype not in CACHE_DTYPES:
        raise ContractError(
            f"{where}.cache_dtype is {shown(dtype)}, expected {' or '.join(CACHE_DTYPES)}"
        )


def _refuse_size(name: str, size: int | None) -> None:
    if size is not None and not 1 <= size <= LARGEST[name]:
        raise ContractError(f"geometry.{name} is {size}, expected 1 to {LARGEST[name]}")
