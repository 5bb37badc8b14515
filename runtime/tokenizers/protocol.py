"""The protocol that each kind of tokenizer implements: text to token ids, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Codec(Protocol):
    """One kind of tokenizer; its token ids are below ``len()``.

    Start and end tokens are the manifest's: a codec neither adds nor removes them. Several threads
    may call it at once.
    """

    def __len__(self) -> int:
        """One more than the largest token id."""

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text without surrogates, with no start or end token added.

        Args:
            text: what to encode.
            allow_special: text that spells a special token becomes that token, as chat templates
                need; otherwise it is encoded as any other text.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens from the start of a sequence; invalid UTF-8 becomes U+FFFD.

        A special token adds none.
        """

    def token_bytes(self, token: int) -> bytes | None:
        """UTF-8 bytes that a token adds inside a text: part of a character, or several.

        None for a token that ``decode`` leaves out, as if it were not there.
        """

    def depends_on_next(self, token: int) -> bool:
        """Whether a token's text may change when another follows, though no character is cut."""

    def label(self, token: int) -> str:
        """Name of a token for reports, with a space shown as a space."""

    def piece(self, token: int) -> str:
        """A token as the tokenizer's file spells it; empty where it has no such token."""

    def find(self, piece: str) -> int | None:
        """The token that the file spells so; None if there is none."""

    @property
    def start_token(self) -> int | None:
        """The start token that the file itself names; None if it names none."""

    @property
    def end_token(self) -> int | None:
        """The end token that the file itself names; None if it names none."""
