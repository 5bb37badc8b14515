"""An untrained tokenizer with any number of pieces."""

from __future__ import annotations

from ...runtime.errors import ConfigError
from ...runtime.tokenizers.sentencepiece import SPACE
from ..published_tokenizer.sentencepiece_model import KIND, make_bpe, serialize

_CHARACTERS = (SPACE, *map(chr, range(0x21, 0x7F)))  # printable ASCII
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
    unknown, *control = _SPECIAL
    fillers = (f"{SPACE}filler{i}" for i in range(_FEWEST, vocab_size))
    words = enumerate((*_CHARACTERS, *fillers))
    model = make_bpe(
        [
            (unknown, 0.0, KIND.UNKNOWN),
            *((piece, 0.0, KIND.CONTROL) for piece in control),
            *((f"<0x{byte:02X}>", 0.0, KIND.BYTE) for byte in range(256)),
            *((piece, -float(rank), KIND.NORMAL) for rank, piece in words),
        ]
    )
    return serialize(model)
