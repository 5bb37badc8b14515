"""Do ``tokenizer.json`` and ``tokenizer.model`` of one checkpoint give the same tokens?"""

from __future__ import annotations

from collections.abc import Iterator

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.protocol import Codec
from ...runtime.tokenizers.sentencepiece import SPACE
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE
from ..formats.checkpoint import Checkpoint
from ..published_tokenizer.byte_level.agreement import MIXED_CASE
from ..published_tokenizer.probe_texts import PROBE_TEXTS, first_other
from .added_tokens import with_added_tokens
from .tokenizer import open_codec


def refuse_two_tokenizers(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose two files are of different tokenizers.

    The driver reads ``tokenizer.model``, and transformers ``tokenizer.json``, so that one of them
    would be wrong. Texts that begin with a space are not compared: Hugging Face's ``Metaspace``
    and SentencePiece treat it differently in files of the same tokenizer. Nor is a text that
    spells an added token, which only one of them finds.

    Raises:
        CheckpointError: naming both files and the first text on which they differ.
    """
    tokenizer = with_added_tokens(checkpoint.read_tokenizer(), checkpoint.config)
    published = tokenizer.files_beside.get(TOKENIZER_JSON_FILE)
    if tokenizer.kind != SENTENCEPIECE or published is None:
        return
    try:
        found = parse_tokenizer_json(published.read_bytes())
    except ValueError:
        return  # it is made anew, with a note
    added = [token.content for token in found.get_added_tokens_decoder().values()]
    texts = [text for text in _texts() if not any(token in text for token in added)]
    ids = {text: found.encode(text, add_special_tokens=False).ids for text in texts}
    codec = open_codec(tokenizer)
    if (text := _first_other(ids, codec)) is None:
        return
    place, own, other = first_other(ids[text], codec.encode(text))
    raise CheckpointError(
        f"{published}: token {place} of {text!r} is {own}, and {other} in "
        f"{tokenizer.path.name} beside it, expected the same tokens in both; remove the one that "
        "is not of this model"
    )


def _texts() -> Iterator[str]:
    return (text for text in (*PROBE_TEXTS, *MIXED_CASE) if not text.startswith((" ", SPACE)))


def _first_other(ids: dict[str, list[int]], codec: Codec) -> str | None:
    return next((text for text, own in ids.items() if codec.encode(text) != own), None)
