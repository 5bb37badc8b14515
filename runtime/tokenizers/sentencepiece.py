"""The SentencePiece kind of tokenizer: the only module that makes SentencePiece's processor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import sentencepiece

from ..untrusted.fields import shown
from .added_tokens import ALWAYS, FIRST, AddedToken, AddedTokens, Splitter

SPACE = "\u2581"  # how SentencePiece writes a space in a piece
_PRIVATE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))  # code points without a meaning
_NONE = AddedTokens()


class SentencePiece:
    """A SentencePiece model and the tokens added to it, as a ``protocol.Codec``."""

    def __init__(self, model: bytes, added: AddedTokens = _NONE) -> None:
        """Read a serialized ModelProto.

        Args:
            model: its bytes.
            added: tokens that it lacks, or that have flags; and where spaces are put in front.

        Raises:
            ValueError: the bytes are not a SentencePiece model, or a piece is not UTF-8.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise ValueError(str(error)) from error
        self._rule = added
        self._added = {one.token: one for one in added.tokens}
        self._ids = {one.text: one.token for one in added.tokens}
        self._num_pieces = int(self._processor.GetPieceSize())
        try:  # or the first call that looks at the piece would fail
            self._processor.IdToPiece(list(range(self._num_pieces)))
        except UnicodeDecodeError as error:
            raise ValueError(f"piece {shown(error.object)} is not UTF-8") from error
        self._without_special = Splitter([one for one in added.tokens if not one.special])

    def __len__(self) -> int:
        """One more than the largest token id, added tokens included."""
        return 1 + max((*self._added, self._num_pieces - 1))

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text, with no start or end token added.

        Special tokens are those added ones that are, and the model's control pieces.
        """
        splitter = self._with_special if allow_special else self._without_special
        tokens: list[int] = []
        for stretch in splitter.split(text):
            if stretch.token is not None:
                tokens.append(stretch.token)
            elif self._puts_space(stretch.text, is_first=stretch.start == 0):
                tokens += self._processor.EncodeAsIds(stretch.text)
            else:
                tokens += self._encode_inside(stretch.text)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens from the start of a sequence; invalid UTF-8 becomes U+FFFD."""
        if not self._added:
            return str(self._processor.DecodeIds(list(tokens)))
        # A text that is no piece is decoded to itself.
        written = [self.piece(token) for token in tokens if self._is_written(token)]
        return str(self._processor.DecodePieces(written))

    def token_bytes(self, token: int) -> bytes | None:
        """UTF-8 bytes that a token adds inside a text; a byte piece, ``<0xE2>``, adds one."""
        if not self._is_written(token):
            return None
        if token in self._added:
            return self._added[token].text.encode()
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
        """The piece or text of a token, as the files have it; empty where there is no token."""
        if token in self._added:
            return self._added[token].text
        if not 0 <= token < self._num_pieces:
            return ""
        return str(self._processor.IdToPiece(int(token)))

    def find(self, piece: str) -> int | None:
        """The token that has this piece or text; None if there is none."""
        if piece in self._ids:
            return self._ids[piece]
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

    def is_control(self, token: int) -> bool:
        """Whether a piece of the model controls, and no text becomes it."""
        return 0 <= token < self._num_pieces and bool(self._processor.IsControl(token))

    @cached_property
    def _with_special(self) -> Splitter:
        control = (
            AddedToken(token=token, text=self.piece(token), special=True)
            for token in range(self._num_pieces)
            if token not in self._added
            and (self._processor.IsControl(token) or self._processor.IsUnknown(token))
        )
        return Splitter([*control, *self._rule.tokens])

    def _is_written(self, token: int) -> bool:
        """Whether decoding a token may add text."""
        if token in self._added:
            return not self._added[token].special
        return 0 <= token < self._num_pieces

    def _puts_space(self, text: str, *, is_first: bool) -> bool:
        """Whether a stretch of a text gets a space in front, where the model puts any."""
        if not self._rule.doubles_space and text.startswith((" ", SPACE)):
            return False
        scheme = self._rule.prepend_scheme
        return scheme == ALWAYS or (scheme == FIRST and is_first)

    def _encode_inside(self, text: str) -> list[int]:
        """Token ids of a text inside another, with no space in front.

        The text follows a character that no piece has, so that nothing merges across it; the
        tokens of that character are cut off.
        """
        mark, cut = self._mark
        tokens = self._processor.EncodeAsIds(mark + text)
        if self._processor.IsUnknown(tokens[cut - 1]):  # one token with unknown ones that follow
            is_alone = self._processor.EncodeAsPieces(mark + text)[cut - 1] == mark
            cut -= int(not is_alone)
        return list(tokens[cut:])

    @cached_property
    def _mark(self) -> tuple[str, int]:
        """A character that no piece has, and how many tokens it becomes at the start of a text."""
        used = set("".join(map(self._processor.IdToPiece, range(self._num_pieces))))
        mark = next(chr(code) for code in _PRIVATE if chr(code) not in used)
        return mark, len(self._processor.EncodeAsIds(mark))
