"""Tokens of text, and text of tokens, whole characters at a time."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from ..errors import ContractError
from ..manifest import Vocabulary

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # surrogates that stand for bytes 0x80 to 0xFF


class Tokenizer:
    """A sentencepiece model, and whether its prompts begin with a start token.

    A model may have more tokens than the tokenizer has pieces: rows that pad the vocabulary, or
    tokens added later such as ``<|im_end|>``. Such a token has no text.
    """

    def __init__(
        self, path: Path, vocabulary: Vocabulary, *, vocab_size: int | None = None
    ) -> None:
        """Read ``tokenizer.model``.

        Args:
            path: the file.
            vocabulary: what the manifest says of it.
            vocab_size: V, tokens of the model; None for as many as there are pieces.

        Raises:
            ContractError: no such file, not a sentencepiece model, or a start token is wanted
                that the vocabulary does not name.
        """
        if not path.is_file():
            raise ContractError(f"{path}: missing; copy the artifact again")
        if vocabulary.add_bos_token and vocabulary.bos_token_id is None:
            raise ContractError(f"{path}: prompts begin with a start token, but none is named")
        self._path = path
        self._vocabulary = vocabulary
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(path.read_bytes())
        except (RuntimeError, OSError) as error:
            raise ContractError(f"{path}: not a sentencepiece model ({error})") from error
        self._num_tokens = max(len(self), vocab_size or 0)

    def __len__(self) -> int:
        """Pieces of the tokenizer."""
        return int(self._pieces.GetPieceSize())

    def encode(self, prompt: str, *, is_first: bool = True) -> list[int]:
        """Tokens of a prompt; the start token leads only the first of a sequence.

        Raises:
            ContractError: no tokens at all, or a character that is half of a surrogate pair.
        """
        _refuse_surrogates(prompt)
        tokens: list[int] = self._pieces.EncodeAsIds(prompt)
        bos = self._vocabulary.bos_token_id
        if is_first and self._vocabulary.add_bos_token and bos is not None:
            tokens = [bos, *tokens]
        if not tokens:
            adds = "a later turn has" if self._vocabulary.add_bos_token else "this tokenizer adds"
            raise ContractError(
                f"--prompt: nothing to decode from, {prompt!r} has no tokens and {adds} "
                "no start token; give a longer prompt"
            )
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens from the start of a sequence; bytes that are no UTF-8 become U+FFFD.

        A token without a piece adds no text.

        Raises:
            ContractError: a token outside the model's vocabulary.
        """
        return str(self._pieces.DecodeIds([int(one) for one in tokens if self.has_piece(one)]))

    def has_piece(self, token: int) -> bool:
        """Whether the tokenizer has a piece for a token of the model.

        Raises:
            ContractError: a token outside the model's vocabulary.
        """
        if not 0 <= token < self._num_tokens:
            raise ContractError(
                f"{self._path}: token {token}; expected 0 to {self._num_tokens - 1}, the "
                "vocabulary; decode with the tokenizer of the model that gave the token"
            )
        return token < len(self)

    def byte(self, token: int) -> bytes | None:
        """The one byte that a byte piece such as ``<0xE2>`` stands for; None for other pieces."""
        if not 0 <= token < len(self) or not self._pieces.IsByte(token):
            return None
        return bytes([int(self._pieces.IdToPiece(token)[3:-1], 16)])


class Detokenizer:
    """Text of tokens as they come; a character is handed on when all its bytes are there.

    All pieces of text together are ``decode(prompt + tokens)`` without ``decode(prompt)``.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        """Begin after the tokens of a prompt, which are whole characters."""
        self._tokenizer = tokenizer
        # Text depends on what precedes it: sentencepiece drops the space that leads a sequence.
        # The latest tokens that gave any text are context enough, so a push costs the same ever.
        self._context = list(prompt)
        self._context_text = tokenizer.decode(self._context)
        self._waiting: list[int] = []
        self._is_whole = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Text that this token completes; empty while a character lacks bytes.

        Raises:
            ContractError: a token outside the model's vocabulary.
        """
        if not self._tokenizer.has_piece(token):
            return ""
        self._waiting.append(token)
        byte = self._tokenizer.byte(token)
        if byte is None:
            self._is_whole.reset()
            return self.flush()
        self._is_whole.decode(byte)
        return "" if self._is_whole.getstate()[0] else self.flush()

    def flush(self) -> str:
        """Text of the tokens that still wait; bytes of unfinished characters become U+FFFD."""
        if not self._waiting:
            return ""
        self._is_whole.reset()
        text = self._tokenizer.decode([*self._context, *self._waiting])[len(self._context_text) :]
        alone = self._tokenizer.decode(self._waiting)
        if alone:
            self._context, self._context_text = self._waiting, alone
        else:
            self._context += self._waiting
            self._context_text += text
        self._waiting = []
        return text


def _refuse_surrogates(prompt: str) -> None:
    """Refuse text that no encoding of Unicode can hold, with the place of its first bad character.

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
