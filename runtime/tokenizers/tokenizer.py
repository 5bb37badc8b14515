"""The tokenizer of an artifact: a codec of any kind, with the model's start and end tokens."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import ContractError
from ..untrusted.fields import shown
from .protocol import Codec
from .vocabulary import Vocabulary

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # surrogates that stand for bytes 0x80 to 0xFF


class Tokenizer:
    """Encodes prompts and decodes tokens; safe to share between threads.

    A model may score more tokens than the codec has: rows that pad the vocabulary, or tokens added
    later such as ``<|im_end|>``. Such a token has no text.
    """

    def __init__(
        self, codec: Codec, vocabulary: Vocabulary, *, path: Path, vocab_size: int | None = None
    ) -> None:
        """Join a codec and a vocabulary.

        Args:
            codec: text to token ids and back.
            vocabulary: start and end tokens.
            path: the file that messages name.
            vocab_size: V, tokens that the model scores; None for as many as the codec has.

        Raises:
            ContractError: prompts begin with a start token, and the vocabulary has none.
        """
        if vocabulary.add_bos_token and vocabulary.bos_token_id is None:
            raise ContractError(
                f"{path}: prompts begin with a start token, but none is named; export again"
            )
        self.vocabulary = vocabulary
        self._codec = codec
        self._path = path
        self._vocab_size = max(len(codec), vocab_size or 0)

    def __len__(self) -> int:
        """Tokens that have text or control it: those of the codec."""
        return len(self._codec)

    def encode(
        self, prompt: str, *, is_first: bool = True, allow_special: bool = False
    ) -> list[int]:
        """Token ids of a prompt; the first prompt of a sequence gets the start token in front.

        Args:
            prompt: text to continue.
            is_first: whether it begins a sequence.
            allow_special: text that spells a special token, such as ``<|im_end|>``, becomes that
                token, as chat templates need. Leave it out for text of users: it is then encoded
                as any other text.

        Raises:
            ContractError: no tokens at all, or a character that is half of a surrogate pair.
        """
        _refuse_surrogates(prompt)
        tokens = self._codec.encode(prompt, allow_special=allow_special)
        if is_first:
            tokens = [*self.vocabulary.prompt_start, *tokens]
        if not tokens:
            adds = "a later turn has" if self.vocabulary.add_bos_token else "this tokenizer adds"
            raise ContractError(
                f"prompt: nothing to decode from, {prompt!r} has no tokens and {adds} "
                "no start token; give a longer prompt"
            )
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens from the start of a sequence; invalid UTF-8 becomes U+FFFD.

        A token that the codec does not have adds no text.

        Raises:
            ContractError: a token outside the model's vocabulary.
        """
        return self._codec.decode([int(token) for token in tokens if self._has(token)])

    def token_bytes(self, token: int) -> bytes | None:
        """UTF-8 bytes that a token adds inside a text; None for a token without text.

        Raises:
            ContractError: a token outside the model's vocabulary.
        """
        return self._codec.token_bytes(int(token)) if self._has(token) else None

    def depends_on_next(self, token: int) -> bool:
        """Whether the text of a token may change when another follows, however whole it is."""
        return self._has(token) and self._codec.depends_on_next(int(token))

    def _has(self, token: int) -> bool:
        """Whether the codec has a token of the model."""
        try:
            operator.index(token)
        except TypeError as error:
            raise ContractError(
                f"{self._path}: token {shown(token)}; expected a whole number, as encode gives; "
                "decode what encode or the model made"
            ) from error
        if not 0 <= token < self._vocab_size:
            raise ContractError(
                f"{self._path}: token {token}; expected 0 to {self._vocab_size - 1}, the "
                "vocabulary; decode with the tokenizer of the model that gave the token"
            )
        return token < len(self._codec)


def _refuse_surrogates(prompt: str) -> None:
    """Refuse text that no encoding of Unicode can hold; the message locates the first character.

    Raises:
        ContractError: half of a surrogate pair, or a byte that was not UTF-8 on the command line.
    """
    found = _SURROGATE.search(prompt)
    if found is None:
        return
    code, place = ord(found[0]), found.start()
    near = ascii(prompt[max(0, place - 10) : place + 10])
    if _FIRST_BYTE <= code <= _LAST_BYTE:  # as Python reads arguments: PEP 383
        raise ContractError(
            f"prompt: character {place} near {near} is the byte 0x{code & 0xFF:02X}, which is not "
            "UTF-8, expected text in UTF-8; convert the prompt, for instance by "
            "iconv -f latin1 -t utf-8"
        )
    raise ContractError(
        f"prompt: character {place} near {near} is U+{code:04X}, half of a surrogate pair, "
        "expected whole characters; join the halves by "
        "text.encode('utf-16', 'surrogatepass').decode('utf-16'), or leave it out"
    )
