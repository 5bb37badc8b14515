"""Runs a ``tokenizer.json`` with Hugging Face's package ``tokenizers``."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from ..errors import ContractError
from ..untrusted.json_text import parse_object
from .byte_alphabet import BYTES
from .panics import panics_as

_CANNOT = (
    "tokenizer.json: the package tokenizers cannot {what} with it ({{said}}), expected a file "
    "that it runs; download it again, or take the one of a model of the same family"
)
_LONG = 16_384  # characters of a text that takes longer than other threads should wait
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class HuggingFace:
    """A ``tokenizer.json`` as a ``protocol.Codec``.

    Special tokens get names that no text has, so that text of users is never read as one: neither
    where the tokenizer looks for added tokens, nor as a piece of its model.
    """

    def __init__(self, content: bytes) -> None:
        """Read the file's content.

        Raises:
            ValueError: it is not one that this version of ``tokenizers`` reads.
        """
        self._content = content
        try:
            described = parse_object(content, what="it")
            added = described.get("added_tokens") or ()
            self._added = {int(one["id"]): str(one["content"]) for one in added}
            self._special = {int(one["id"]) for one in added if one["special"]}
            special = {self._added[token] for token in self._special}
            self._tokenizer = parse_tokenizer_json(
                json.dumps(_renamed(described, special)).encode()
            )
        except ContractError as error:
            raise ValueError(str(error)) from error
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"a part of it is missing or of another kind: {error!r}") from error
        self._ids = {text: token for token, text in self._added.items()}
        _refuse_other_ids(self._ids, self._with_special)
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self._size = 1 + max(ids, default=-1)
        decoders = set(_types(described.get("decoder")))
        self._is_byte_level = "ByteLevel" in decoders
        self._has_byte_pieces = "ByteFallback" in decoders

    def __len__(self) -> int:
        """One more than the largest token id, added tokens included."""
        return self._size

    @cached_property
    def _with_special(self) -> Tokenizer:
        """The same tokenizer, which reads special tokens in a text."""
        return parse_tokenizer_json(self._content)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text, with no start or end token added."""
        tokenizer = self._with_special if allow_special else self._tokenizer
        with panics_as(ContractError, _CANNOT.format(what="encode a text")):
            if len(text) < _LONG:
                return list(tokenizer.encode(text, add_special_tokens=False).ids)
            # Unlike ``encode``, it does not hold the interpreter's lock (tokenizers 0.23).
            return list(tokenizer.encode_batch([text], add_special_tokens=False)[0].ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens from the start of a sequence; special tokens add none."""
        kept = [token for token in tokens if token not in self._special]
        if not any(self._tokenizer.id_to_token(token) is not None for token in kept):
            return ""  # the decoder for the suffix </w> panics where nothing is left
        with panics_as(ContractError, _CANNOT.format(what="decode tokens")):
            return str(self._tokenizer.decode(kept, skip_special_tokens=True))

    def token_bytes(self, token: int) -> bytes | None:
        """UTF-8 bytes that a token adds inside a text; None for a special token."""
        if token in self._special:
            return None
        piece = self.piece(token)
        if token not in self._added:
            if self._is_byte_level and all(sign in BYTES for sign in piece):
                return bytes(BYTES[sign] for sign in piece)
            if byte := self._byte(piece):
                return bytes([int(byte[1], 16)])
        # Beside another token: some decoders treat the first of a text in their own way.
        alone = self.decode([token])
        twice = self.decode([token, token])
        return twice[len(alone) :].encode() if twice.startswith(alone) else alone.encode()

    def depends_on_next(self, token: int) -> bool:
        """Whether it is a byte piece: one that is no UTF-8 makes U+FFFD of its whole run."""
        return self._byte(self.piece(token)) is not None

    def _byte(self, piece: str) -> re.Match[str] | None:
        return _BYTE_PIECE.fullmatch(piece) if self._has_byte_pieces else None

    def label(self, token: int) -> str:
        """The text that a token adds inside a text, bytes as <0xE2>; a special token's name."""
        if token in self._special:
            return self._added[token]
        added = self.token_bytes(token) or b""
        try:
            return added.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in added)

    def piece(self, token: int) -> str:
        """A token as the file spells it; empty where there is no such token."""
        return self._added.get(token) or self._tokenizer.id_to_token(token) or ""

    def find(self, piece: str) -> int | None:
        """The token that the file spells so; None if there is none."""
        found: int | None = self._tokenizer.token_to_id(piece)
        return self._ids.get(piece, found)

    @property
    def start_token(self) -> int | None:
        """None: the file does not name a start token; settings beside it do."""
        return None

    @property
    def end_token(self) -> int | None:
        """None: the file does not name an end token; settings beside it do."""
        return None


def parse_tokenizer_json(content: bytes) -> Tokenizer:
    """Read a ``tokenizer.json``, and encode each text whole and without padding.

    Training often leaves a length to cut at or to pad to in the file; transformers applies neither
    unless it is asked to.

    Raises:
        ValueError: it is not one that this version of ``tokenizers`` reads.
    """
    with panics_as(ValueError, "{said}"):  # what tokenizers raises has no type of its own
        found: Tokenizer = Tokenizer.from_str(content.decode())
    found.no_truncation()
    found.no_padding()
    return found


def _refuse_other_ids(ids: dict[str, int], read: Tokenizer) -> None:
    """Refuse a file whose added tokens get other ids than it says, as ``tokenizers`` reads it.

    Raises:
        ValueError: naming the first.
    """
    for token, one in read.get_added_tokens_decoder().items():
        if ids.get(one.content) != token:
            raise ValueError(
                f"added token {one.content!r} has id {ids.get(one.content)} there and becomes "
                f"{token}, the next that is free"
            )


def _renamed(described: dict[str, Any], special: set[str]) -> dict[str, Any]:
    """The same tokenizer, whose special tokens have names that nobody can guess."""
    secret = secrets.token_hex()
    names = {text: f"{secret}{text}" for text in special}
    model = dict(described["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): token for piece, token in vocabulary.items()}
    elif vocabulary is not None:  # of a unigram model: pairs of piece and score
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("merges"):
        model["merges"] = [one for one in model["merges"] if not _merges(one, special)]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = [
        {**one, "content": names.get(one["content"], one["content"])}
        for one in described.get("added_tokens") or ()
    ]
    return {**described, "model": model, "added_tokens": added}


def _merges(pair: str | list[str], special: set[str]) -> bool:
    """Whether a merge makes a special token, or takes one."""
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return not special.isdisjoint((left, right, left + right))


def _types(part: Any) -> Iterator[str]:
    """Types of a part of the file, and of those inside it."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for value in part.values():
            yield from _types(value)
    elif isinstance(part, list):
        for value in part:
            yield from _types(value)
