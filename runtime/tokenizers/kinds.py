"""The kinds of tokenizer that an artifact may have, and how each is opened.

A new kind is a file beside this one with a ``protocol.Codec``, and an entry in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..contract import MANIFEST_FILE, TOKENIZER_FILE
from ..errors import ContractError
from ..manifest import SENTENCEPIECE, Manifest
from .protocol import Codec
from .tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of tokenizer."""

    file: str  # of the artifact
    parse: Callable[[bytes], Codec]  # that file's content; ValueError where it is damaged


def _sentencepiece(content: bytes) -> Codec:
    from .sentencepiece import SentencePiece  # imports a package that other kinds do not need

    return SentencePiece(content)


# By the manifest's ``vocabulary.kind``.
KINDS = {SENTENCEPIECE: Kind(file=TOKENIZER_FILE, parse=_sentencepiece)}


def find_kind(folder: Path, manifest: Manifest) -> Kind:
    """Find the kind of an artifact's tokenizer.

    Raises:
        ContractError: this version has no such kind.
    """
    name = manifest.vocabulary.kind
    if name not in KINDS:
        raise ContractError(
            f"{folder / MANIFEST_FILE}: vocabulary.kind is {name!r}, expected "
            f"{' or '.join(map(repr, sorted(KINDS)))}, the kinds of tokenizer that this version "
            "reads; update tramontane: pip install --upgrade tramontane"
        )
    return KINDS[name]


def open_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """Open an artifact's tokenizer.

    Raises:
        ContractError: its kind is unknown, its file is missing or damaged, or prompts begin with
            a start token that the manifest does not name.
    """
    kind = find_kind(folder, manifest)
    path = folder / kind.file
    if not path.is_file():
        raise ContractError(f"{path}: missing; copy the artifact again")
    try:
        codec = kind.parse(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ContractError(
            f"{path}: not a {manifest.vocabulary.kind} model ({error}); copy the artifact again"
        ) from error
    return Tokenizer(
        codec, manifest.vocabulary, path=path, vocab_size=manifest.geometry.vocab_size
    )
