"""The protocol that each kind of tokenizer implements: text to token ids, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Codec(Protocol):
    """One kind of tokenizer; its token ids are 0 to ``len() - 1``.

    Start and end tokens are the manifest's: a codec neither adds nor removes them. Several threads
    may call it at once.
    """

    def __len__(self) -> int:
        """Number of tokens."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without surrogates, with no start or end token added."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens from the start of a sequence; invalid UTF-8 becomes U+FFFD."""

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that a token adds inside a text: part of a character, or several.

        A control token adds none.
        """

    def label(self, token: int) -> str:
        """Name of a token for reports, with a space shown as a space."""
