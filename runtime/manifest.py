"""The manifest of an artifact: its fields, and how ``manifest.json`` is written, read and checked.

``manifest.json`` is canonical JSON (sorted keys, two spaces, one newline at the end) that carries
the hash of its own text, so that every changed byte is found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cache import CacheLayout
from .contract import MANIFEST_FILE, Geometry
from .errors import ContractError
from .memory import MemoryPlan
from .tokenizers.added_tokens import AddedToken, AddedTokens

SCHEMA_VERSION = 4
# Kinds of tokenizer; manifests that name none have the first.
SENTENCEPIECE, TOKENIZERS = "sentencepiece", "tokenizers"
_DIGEST = "manifest_sha256"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The kind of the tokenizer, and its start and end tokens."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos_token: bool  # whether a prompt starts with the start token
    kind: str = SENTENCEPIECE  # as in ``tokenizers.kinds``
    # To the SentencePiece model; a tokenizer.json has its own.
    added_tokens: AddedTokens = field(default_factory=AddedTokens)

    @property
    def prompt_start(self) -> list[int]:
        """Tokens in front of the first prompt of a sequence: the start token, or none."""
        bos = self.bos_token_id
        return [bos] if self.add_bos_token and bos is not None else []


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that the driver needs besides the graph, and how the artifact was made."""

    quant: str
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
    parity: dict[str, Any] | None = None  # headline figures; None: not measured
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # bytes and sha256


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``; the same manifest gives the same bytes."""
    content = {
        **dataclasses.asdict(manifest),
        "geometry": _describe_geometry(manifest.geometry),
        "vocabulary": _describe_vocabulary(manifest.vocabulary),
        "schema_version": SCHEMA_VERSION,
    }
    (folder / MANIFEST_FILE).write_text(_text(content), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` of an artifact.

    Raises:
        ContractError: no such folder or file, another schema version, or not the text written.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise ContractError(f"{folder}: no such folder; name an artifact written by export")
    if not path.is_file():
        raise ContractError(f"{folder}: not an artifact, it holds no {MANIFEST_FILE}")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
        version = content.pop("schema_version")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ContractError(f"{path}: not a manifest ({error}); export again") from error
    if version != SCHEMA_VERSION:
        raise ContractError(
            f"{path}: schema version {version}, expected {SCHEMA_VERSION}; "
            "use the tramontane that wrote it, or export again"
        )
    content.pop(_DIGEST, None)
    # The text is compared before it is parsed: an older manifest lacks newer fields.
    if _text({**content, "schema_version": version}) != text:
        raise ContractError(f"{path}: changed since it was written; export again")
    try:
        return _parse(content)
    except (TypeError, KeyError, ContractError) as error:
        raise ContractError(f"{path}: not a manifest ({error}); export again") from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file's size and hash with the manifest's.

    Raises:
        ContractError: naming the first file that is missing or differs.
    """
    for name, promised in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ContractError(f"{path}: missing, the manifest promises it; copy it again")
        found = describe_file(path)
        if found != promised:
            raise ContractError(
                f"{path}: {found['bytes']} bytes with sha256 {found['sha256']}, the manifest "
                f"promises {promised['bytes']} bytes with {promised['sha256']}; copy it again"
            )


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file, read in small pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def to_json(content: Any) -> str:
    """JSON with one spelling for one content."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _text(content: dict[str, Any]) -> str:
    """The text of a manifest, with the hash of the text without it."""
    digest = hashlib.sha256(to_json(content).encode()).hexdigest()
    return to_json({**content, _DIGEST: digest})


def _parse(content: dict[str, Any]) -> Manifest:
    vocabulary = content["vocabulary"]
    vocabulary["eos_token_ids"] = tuple(vocabulary["eos_token_ids"])
    if "added_tokens" in vocabulary:
        added = vocabulary["added_tokens"]
        tokens = tuple(AddedToken(**one) for one in added["tokens"])
        vocabulary["added_tokens"] = AddedTokens(**{**added, "tokens": tokens})
    content["vocabulary"] = Vocabulary(**vocabulary)
    content["geometry"] = _parse_geometry(content["geometry"])
    content["memory"] = MemoryPlan(**content["memory"])
    return Manifest(**content)


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


def _parse_geometry(content: dict[str, Any]) -> Geometry:
    sizes = dict(content)
    count, layers = sizes.pop("num_layers"), sizes.pop("layers", None)
    if layers is None:
        layers = [{"window": sizes.pop("window"), "rows": sizes.pop("rows")}] * count
    return Geometry(layers=tuple(CacheLayout(**layer) for layer in layers), **sizes)
