"""Special tokens in Hugging Face's files: ids in config files, texts in tokenizer settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...runtime.tokenizers.protocol import Codec

ENDS = ("bos_token", "eos_token")  # keys of the settings: the texts of the start and the end token


def write_ids(*, bos: int | None, eos: Sequence[int]) -> dict[str, Any]:
    """Start and end tokens as fields of config files; None, JSON's null, where there is none.

    >>> write_ids(bos=1, eos=[2])
    {'bos_token_id': 1, 'eos_token_id': 2}
    >>> write_ids(bos=None, eos=[2, 7])
    {'bos_token_id': None, 'eos_token_id': [2, 7]}
    """
    ends = list(eos) if len(eos) > 1 else next(iter(eos), None)
    return {"bos_token_id": bos, "eos_token_id": ends}


def text_of(token: Any) -> str | None:
    """The text of a token in tokenizer settings: a string, or an object with ``content``."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


class TokenTexts:
    """Texts and ids of tokens: the tokenizer's own, and those that settings add."""

    def __init__(self, codec: Codec, settings: Mapping[str, Any]) -> None:
        """Read the settings of ``tokenizer_config.json`` beside a tokenizer."""
        self._codec = codec
        added = settings.get("added_tokens_decoder")
        self._added = added if isinstance(added, Mapping) else {}

    def find(self, text: str) -> int | None:
        """The id of a token; None if neither the tokenizer nor the settings have it."""
        token = self._codec.find(text)
        if token is not None:
            return token
        ids = (key for key, value in self._added.items() if text_of(value) == text)
        return next((int(key) for key in ids if str(key).isdecimal()), None)

    def text(self, token: int | None) -> str | None:
        """The text of a token; None if neither the tokenizer nor the settings have it."""
        if token is None:
            return None
        if token < len(self._codec) and (piece := self._codec.piece(token)):
            return piece
        return text_of(self._added.get(str(token)))
