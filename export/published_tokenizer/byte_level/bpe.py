"""Byte-level BPE as a ``tokenizers.Tokenizer``: how bytes are spelled, and merges from ranks."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from ....runtime.tokenizers.byte_alphabet import BYTES, SPELLED
from ..json_parts import starts_with


def spell(token: bytes) -> str:
    r"""The text of a token in a byte-level vocabulary: a character for each byte.

    >>> spell(b" caf\xc3\xa9")
    'ĠcafÃ©'
    """
    return "".join(SPELLED[byte] for byte in token)


def bytes_of(spelled: str) -> bytes | None:
    r"""The bytes of a token; None where a character of its text stands for no byte.

    >>> bytes_of("ĠcafÃ©")
    b' caf\xc3\xa9'
    """
    found = [BYTES.get(character) for character in spelled]
    known = [byte for byte in found if byte is not None]
    return bytes(known) if len(known) == len(found) else None


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """Merges that encode as tiktoken does, which joins the two neighbours of the lowest rank.

    Each token has one merge. Inside a text, tiktoken makes a token of the same two parts as when
    it encodes that token alone, since until then it has joined nothing across the token's ends.
    A token that its own bytes do not become has no merge: only a whole split is that token.

    Args:
        ranks: rank of each token; the lowest is joined first.

    Source: openai/tiktoken, src/lib.rs, ``_byte_pair_merge``.
    """
    found = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = _last_two(token, ranks)
        if parts is not None:
            found.append((spell(parts[0]), spell(parts[1])))
    return found


def _last_two(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts of a token that are joined last; None: it does not become one token.

    A heap holds the neighbours that can be joined: the time does not grow with the square of the
    token's length.
    """
    num_bytes = count = len(token)
    ends = list(range(1, num_bytes + 1))  # of the part that starts at each byte; 0: none does
    before = list(range(-1, num_bytes - 1))  # where the part in front of it starts
    joins: list[tuple[int, int, int]] = []  # rank, start and end of two neighbours joined

    def add(start: int) -> None:
        middle = ends[start]
        if middle < num_bytes and (rank := ranks.get(token[start : ends[middle]])) is not None:
            heapq.heappush(joins, (rank, start, ends[middle]))

    for start in range(num_bytes - 1):
        add(start)
    while count > 2 and joins:
        _, start, end = heapq.heappop(joins)
        middle = ends[start]
        if not 0 < middle < num_bytes or ends[middle] != end:  # one of the two is joined already
            continue
        ends[start], ends[middle] = end, 0
        count -= 1
        if end < num_bytes:
            before[end] = start
        for changed in {start, max(0, before[start])}:
            add(changed)
    return (token[: ends[0]], token[ends[0] :]) if count == 2 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ByteLevelBpe:
    """All that decides how a byte-level BPE tokenizer encodes."""

    vocabulary: Mapping[str, int]  # ids of spelled tokens, and of added tokens as they are
    merges: Sequence[tuple[str, str]]
    pre_tokenizer: pre_tokenizers.PreTokenizer  # splits a text, and spells the bytes
    is_whole_first: bool  # a split that is a token is that token, whatever the merges make of it
    normalizer: normalizers.Normalizer | None = None  # of a text, before it is split
    added: Sequence[AddedToken] = ()
    start: str | None = None  # token in front of a text

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, for ``tokenizer.json``.

        Raises:
            ValueError: a merge has a part, or makes a token, that the vocabulary lacks.
        """
        try:
            model = models.BPE(
                vocab=dict(self.vocabulary),
                merges=list(self.merges),
                ignore_merges=self.is_whole_first,
            )
        except Exception as error:  # what tokenizers raises has no type of its own
            raise ValueError(str(error)) from error
        found = Tokenizer(model)
        if self.normalizer is not None:
            found.normalizer = self.normalizer
        found.pre_tokenizer = self.pre_tokenizer
        found.decoder = decoders.ByteLevel()
        found.post_processor = processors.ByteLevel(trim_offsets=False)
        if self.start is not None:
            found.post_processor = starts_with(self.start, self.vocabulary[self.start])
        # One call keeps the order of ids; tokens of the vocabulary keep their own.
        found.add_tokens(list(self.added))
        return found
