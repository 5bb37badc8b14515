"""The kinds of tokenizer that an artifact may have: the file of each, and what parses it.

A new kind is a file beside this one with a ``protocol.Codec``, and an entry in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..contract import TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ..errors import ContractError
from ..untrusted.fields import shown
from .added_tokens import AddedTokens
from .protocol import Codec
from .vocabulary import SENTENCEPIECE, TOKENIZERS


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
