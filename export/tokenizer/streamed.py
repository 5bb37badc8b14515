"""Refuses a tokenizer whose text, token by token, is not the text of all tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError, ContractError
from ...runtime.tokenizers.detokenizer import Detokenizer
from ...runtime.tokenizers.protocol import Codec
from ...runtime.tokenizers.tokenizer import Tokenizer
from ...runtime.tokenizers.vocabulary import Vocabulary
from ..published_tokenizer.probe_texts import PROBE_TEXTS

_SHOWN = 8  # tokens, in the message


def refuse_other_stream(codec: Codec, *, model: bytes, path: Path) -> None:
    """Refuse a decoder whose text of a token changes or goes when another token follows.

    ``generate`` gives text as tokens come, so that it would give another text than ``decode``.
    Such a decoder is ``CTC``, of models of speech, which drops a token that stands twice.

    Args:
        codec: the tokenizer, as the driver reads it.
        model: content of its file.
        path: the file that the message names.

    Raises:
        CheckpointError: naming the decoder, and the first tokens that differ.
    """
    plain = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
    tokenizer = Tokenizer(codec, plain, path=path)
    for tokens in _sequences(codec):
        whole, streamed = tokenizer.decode(tokens), _streamed(tokenizer, tokens)
        if whole != streamed:
            more = f" and {len(tokens) - _SHOWN} more" if len(tokens) > _SHOWN else ""
            raise CheckpointError(
                f"{path}: tokens {tokens[:_SHOWN]}{more} are {streamed!r} one by one, and "
                f"{whole!r} together{_of_decoder(model)}, expected one text, since text is "
                "given as tokens come; take the tokenizer of a model of the same family"
            )


def _sequences(codec: Codec) -> Iterator[list[int]]:
    """Tokens of the probe texts that can be encoded, and each of these tokens twice."""
    for text in PROBE_TEXTS:
        try:
            tokens = codec.encode(text, allow_special=True)
        except ContractError:
            continue  # a vocabulary without a token for what is unknown
        yield tokens
        yield [token for token in tokens for _ in range(2)]


def _streamed(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    stream = Detokenizer(tokenizer)
    return "".join([*map(stream.push, tokens), stream.flush()])


def _of_decoder(model: bytes) -> str:
    """The decoder's type, where the file is a ``tokenizer.json``; else nothing."""
    try:
        decoder: Any = json.loads(model)["decoder"]
        kinds = [one["type"] for one in decoder.get("decoders", [decoder])]
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""
    return f" (decoder {', '.join(map(str, kinds))})"
