"""An untrained tokenizer with any number of pieces."""

from __future__ import annotations

from typing import Any

from sentencepiece import sentencepiece_model_pb2

from ...runtime.errors import ConfigError

_PROTO: Any = sentencepiece_model_pb2  # protobuf makes its classes on import
_SPACE = "\u2581"  # how SentencePiece writes a space
_CHARACTERS = (_SPACE, *map(chr, range(0x21, 0x7F)))  # printable ASCII
_SPECIAL = ("<unk>", "<s>", "</s>")
_FEWEST = len(_SPECIAL) + 256 + len(_CHARACTERS)


def byte_tokenizer(vocab_size: int) -> bytes:
    """Build a SentencePiece BPE model that reads and writes any text, one character a token.

    Start and end tokens are 1 and 2, as Mistral's and Llama's are. What is not printable ASCII
    becomes its bytes. The pieces that fill the vocabulary up are never the outcome of encoding,
    since nothing merges into them, but each decodes to a word of its own.

    Raises:
        ConfigError: the vocabulary has no room for bytes and characters.

    Source: sentencepiece's ``sentencepiece_model.proto``, and Llama's settings in it.
    """
    if vocab_size < _FEWEST:
        raise ConfigError(
            f"vocab_size is {vocab_size}; expected at least {_FEWEST}, room for every byte and "
            "printable character; take a geometry with a larger vocabulary"
        )
    model = _PROTO.ModelProto()
    model.trainer_spec.model_type = _PROTO.TrainerSpec.BPE
    model.trainer_spec.vocab_size = vocab_size
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    kind = _PROTO.ModelProto.SentencePiece
    for piece in _SPECIAL:
        unknown = piece == "<unk>"
        model.pieces.add(piece=piece, score=0.0, type=kind.UNKNOWN if unknown else kind.CONTROL)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=kind.BYTE)
    fillers = (f"{_SPACE}filler{i}" for i in range(_FEWEST, vocab_size))
    for rank, piece in enumerate((*_CHARACTERS, *fillers)):
        model.pieces.add(piece=piece, score=-float(rank), type=kind.NORMAL)
    return bytes(model.SerializeToString(deterministic=True))
