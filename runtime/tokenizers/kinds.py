"""The kinds of tokenizer that an artifact may have, and how each is opened.

A new kind is a file beside this one with a ``protocol.Codec``, and an entry in ``KINDS``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..contract import MANIFEST_FILE, TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ..errors import ContractError
from ..manifest import SENTENCEPIECE, TOKENIZERS, Manifest
from ..untrusted.fields import shown
from ..untrusted.files import read_file
from ..untrusted.json_text import LARGE_BYTES
from .added_tokens import AddedTokens
from .protocol import Codec
from .tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of tokenizer."""

    file: str  # of the artifact
    # That file's content, and the tokens added to it; ValueError where it is damaged.
    parse: Callable[[bytes, AddedTokens], Codec]
    package: str | None = None  # that parsing imports; None: one that the driver always has


def _sentencepiece(content: bytes, added: AddedTokens) -> Codec:
    from .sentencepiece import SentencePiece  # imports a package that other kinds do not need

    return SentencePiece(content, added)


def _hugging_face(content: bytes, _: AddedTokens) -> Codec:
    from .hugging_face import HuggingFace

    return HuggingFace(content)


# By the manifest's ``vocabulary.kind``.
KINDS = {
    SENTENCEPIECE: Kind(file=TOKENIZER_FILE, parse=_sentencepiece),
    TOKENIZERS: Kind(file=TOKENIZER_JSON_FILE, parse=_hugging_face, package="tokenizers"),
}


def find_kind(folder: Path, manifest: Manifest) -> Kind:
    """Find the kind of an artifact's tokenizer.

    Raises:
        ContractError: this version has no such kind, or the package that it needs is missing.
    """
    name = manifest.vocabulary.kind
    kind = kind_named(name, where=f"{folder / MANIFEST_FILE}: ")
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        raise ContractError(
            f"{folder / MANIFEST_FILE}: vocabulary.kind is {name!r}, which needs the package "
            f"{kind.package}, and it is not installed; pip install {kind.package}"
        )
    return kind


def kind_named(name: str, *, where: str = "") -> Kind:
    """The kind of that name; ``where`` begins the message.

    Raises:
        ContractError: this version has no such kind.
    """
    if name not in KINDS:
        raise ContractError(
            f"{where}vocabulary.kind is {shown(name)}, expected "
            f"{' or '.join(map(repr, sorted(KINDS)))}, the kinds of tokenizer that this version "
            "reads; update tramontane: pip install path/to/tramontane, from a newer checkout"
        )
    return KINDS[name]


def open_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """Open an artifact's tokenizer.

    Raises:
        ContractError: its kind is unknown or needs a package that is missing, its file is missing
            or damaged, or prompts begin with a start token that the manifest does not name.
    """
    kind = find_kind(folder, manifest)
    path = folder / kind.file
    if not path.is_file():
        raise ContractError(f"{path}: missing; copy the artifact again")
    content = read_file(path, most=LARGE_BYTES, remedy="copy the artifact again")
    try:
        codec = kind.parse(content, manifest.vocabulary.added_tokens)
    except (ValueError, RecursionError) as error:
        raise ContractError(
            f"{path}: not a {manifest.vocabulary.kind} model ({error}); copy the artifact again"
        ) from error
    return Tokenizer(
        codec, manifest.vocabulary, path=path, vocab_size=manifest.geometry.vocab_size
    )
