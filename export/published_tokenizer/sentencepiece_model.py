"""SentencePiece's model file (its ModelProto): read, made, changed and written.

No other module uses SentencePiece's protobuf classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

_PROTO: Any = sentencepiece_model_pb2  # protobuf makes its classes on import
KIND: Any = _PROTO.ModelProto.SentencePiece  # of a piece: NORMAL, UNKNOWN, CONTROL, BYTE, ...
BPE: Any = _PROTO.TrainerSpec.BPE  # an algorithm of a model


def parse(model: bytes) -> Any:
    """Read a ModelProto.

    Raises:
        DecodeError: the bytes are none.
    """
    return _PROTO.ModelProto.FromString(model)


def serialize(proto: Any) -> bytes:
    """Write a ModelProto; the same content gives the same bytes."""
    return bytes(proto.SerializeToString(deterministic=True))


def make_bpe(
    pieces: Iterable[tuple[str, float, int]], *, remove_extra_whitespaces: bool = False
) -> Any:
    """Make a BPE model that changes no characters.

    Args:
        pieces: text, score and ``KIND`` of each token.
        remove_extra_whitespaces: whether runs of spaces become one.

    Raises:
        ValueError: a piece is not a text, a number and a kind.
    """
    proto = _PROTO.ModelProto()
    for piece, score, kind in pieces:
        try:
            proto.pieces.add(piece=piece, score=score, type=kind)
        except (TypeError, ValueError) as error:
            raise ValueError(f"token {piece!r} is not SentencePiece's ({error})") from error
    proto.trainer_spec.model_type = BPE
    proto.trainer_spec.vocab_size = len(proto.pieces)
    proto.trainer_spec.byte_fallback = any(piece.type == KIND.BYTE for piece in proto.pieces)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.remove_extra_whitespaces = remove_extra_whitespaces
    return proto


def with_leading_space(model: bytes, adds_space: bool | None) -> bytes:
    """The same model, with or without a space in front of each text; None: as it is."""
    if adds_space is None:
        return model
    try:
        proto = parse(model)
    except DecodeError:
        return model  # refused, by name, where it is opened
    if proto.normalizer_spec.add_dummy_prefix == adds_space:
        return model
    proto.normalizer_spec.add_dummy_prefix = adds_space
    return serialize(proto)


def puts_spaces_in_front(proto: Any) -> bool:
    """Whether a model writes a space as its sign for one, in front of the word."""
    is_behind = proto.trainer_spec.treat_whitespace_as_suffix
    return bool(proto.normalizer_spec.escape_whitespaces and not is_behind)
