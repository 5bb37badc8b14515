"""The SentencePiece kind of tokenizer: the only module that makes SentencePiece's processor."""

from __future__ import annotations

from collections.abc import Sequence

import sentencepiece

SPACE = "\u2581"  # how SentencePiece writes a space in a piece


class SentencePiece:
    """A SentencePiece model as a ``protocol.Codec``, with access to its pieces."""

    def __init__(self, model: bytes) -> None:
        """Read a serialized ModelProto.

        Raises:
            ValueError: the bytes are not a SentencePiece model.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise ValueError(str(error)) from error

    def __len__(self) -> int:
        """Number of pieces."""
        return int(self._processor.GetPieceSize())

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:  # noqa: ARG002
        """Token ids of a text, with no start or end token added; none of them controls."""
        return list(self._processor.EncodeAsIds(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens from the start of a sequence; invalid UTF-8 becomes U+FFFD."""
        return str(self._processor.DecodeIds(list(tokens)))

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that a token adds inside a text; a byte piece, ``<0xE2>``, adds one."""
        if self._processor.IsByte(token):
            return bytes([int(self.piece(token)[3:-1], 16)])
        if self._processor.IsControl(token):
            return b""
        if self._processor.IsUnknown(token):
            return self.decode([token]).encode()
        return self.label(token).encode()

    def depends_on_next(self, token: int) -> bool:  # noqa: ARG002
        """No: SentencePiece decodes each character alone."""
        return False

    def label(self, token: int) -> str:
        """The piece of a token, with a space shown as a space."""
        return self.piece(token).replace(SPACE, " ")

    def piece(self, token: int) -> str:
        """The piece of a token, as the model has it; empty where it has no such token."""
        if not 0 <= token < len(self):
            return ""
        return str(self._processor.IdToPiece(int(token)))

    def find(self, piece: str) -> int | None:
        """The token that has this piece; None if there is none."""
        token = int(self._processor.PieceToId(piece))  # of an unknown piece: the unknown token
        return token if self.piece(token) == piece else None

    @property
    def start_token(self) -> int | None:
        """The model's own start token; None if it has none."""
        token = int(self._processor.bos_id())
        return token if token >= 0 else None

    @property
    def end_token(self) -> int | None:
        """The model's own end token; None if it has none."""
        token = int(self._processor.eos_id())
        return token if token >= 0 else None
