"""Streams the text of tokens, whole characters at a time, for every kind of tokenizer."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from .tokenizer import Tokenizer

_LONGEST = 4  # bytes of a character


class Detokenizer:
    """Text of tokens as they come; a character is returned when all its bytes are there.

    All pieces of text together are ``decode(prompt + tokens)`` without ``decode(prompt)``; where
    the prompt ends inside a character, without the prompt's whole characters.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        """Begin after the tokens of a prompt."""
        self._tokenizer = tokenizer
        # The text of a token depends on what precedes it: SentencePiece drops the first space of a
        # sequence. The latest tokens that gave any text are enough context, so that the cost of a
        # push does not grow with the sequence.
        self._context = list(prompt)
        self._context_text = tokenizer.decode(self._context)
        self._waiting: list[int] = []
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for token in self._context[-_LONGEST:]:
            self._utf8.decode(tokenizer.token_bytes(token) or b"")
        # The bytes of a character that the prompt ends inside, one U+FFFD for all or for each.
        for _ in self._utf8.getstate()[0]:
            self._context_text = self._context_text.removesuffix("\ufffd")

    def push(self, token: int) -> str:
        """Text that this token completes; empty while a character lacks bytes.

        Raises:
            ContractError: a token outside the model's vocabulary.
        """
        added = self._tokenizer.token_bytes(token)
        if added is None or not (added or self._waiting):  # a start token ends unfinished ones
            return ""
        self._waiting.append(token)
        self._utf8.decode(added)
        is_unfinished = bool(added) and bool(self._utf8.getstate()[0])
        waits = is_unfinished or self._tokenizer.depends_on_next(token)
        return "" if waits else self.flush()

    def flush(self) -> str:
        """Text of the tokens that still wait; bytes of unfinished characters become U+FFFD."""
        if not self._waiting:
            return ""
        self._utf8.reset()
        text = self._tokenizer.decode([*self._context, *self._waiting])[len(self._context_text) :]
        alone = self._tokenizer.decode(self._waiting)
        if alone:
            self._context, self._context_text = self._waiting, alone
        elif not self._context_text:
            self._context += self._waiting
            self._context_text += text
        self._waiting = []
        return text
