"""Opens an artifact's tokenizer, of the kind that its manifest names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..contract import MANIFEST_FILE
from ..errors import ContractError
from ..manifest import Manifest
from ..tokenizers.kinds import Kind, kind_named
from ..tokenizers.tokenizer import Tokenizer
from ..tokenizers.vocabulary import Vocabulary
from ..untrusted.files import read_file
from ..untrusted.json_text import LARGE_BYTES


def find_kind(folder: Path, vocabulary: Vocabulary) -> Kind:
    """Find the kind of an artifact's tokenizer.

    Raises:
        ContractError: this version has no such kind, or the package that it needs is missing.
    """
    name = vocabulary.kind
    kind = kind_named(name, where=f"{folder / MANIFEST_FILE}: ")
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        raise ContractError(
            f"{folder / MANIFEST_FILE}: vocabulary.kind is {name!r}, which needs the package "
            f"{kind.package}, and it is not installed; pip install {kind.package}"
        )
    return kind


def open_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """Open an artifact's tokenizer.

    Raises:
        ContractError: as ``read_tokenizer``.
    """
    return read_tokenizer(folder, manifest.vocabulary, vocab_size=manifest.geometry.vocab_size)


def read_tokenizer(folder: Path, vocabulary: Vocabulary, *, vocab_size: int) -> Tokenizer:
    """Open a tokenizer's files, of an artifact that may have no manifest yet.

    Args:
        folder: the files lie in it.
        vocabulary: what a manifest says of the tokenizer.
        vocab_size: V, tokens that the model scores.

    Raises:
        ContractError: its kind is unknown or needs a package that is missing, its file is missing
            or damaged, or prompts begin with a start token that the manifest does not name.
    """
    kind = find_kind(folder, vocabulary)
    path = folder / kind.file
    if not path.is_file():
        raise ContractError(f"{path}: missing; copy the artifact again")
    content = read_file(path, most=LARGE_BYTES, remedy="copy the artifact again")
    try:
        codec = kind.parse(content, vocabulary.added_tokens)
    except (ValueError, RecursionError) as error:
        raise ContractError(
            f"{path}: not a {vocabulary.kind} model ({error}), expected one; copy the "
            "artifact again"
        ) from error
    return Tokenizer(codec, vocabulary, path=path, vocab_size=vocab_size)
