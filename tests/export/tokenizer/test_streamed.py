"""Is a tokenizer refused whose tokens, one by one, give another text than all of them?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from tramontane.export.options import ExportOptions
from tramontane.export.planning.preflight import preflight
from tramontane.export.published_tokenizer.json_parts import to_bytes
from tramontane.export.tokenizer.streamed import refuse_other_stream
from tramontane.runtime.errors import CheckpointError, ContractError
from tramontane.runtime.tokenizers.hugging_face import HuggingFace

from ...support.tiny_tokenizers import KINDS, byte_level, save, word_pieces

Write = Callable[..., Path]
PATH = Path("tokenizer.json")


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_of_every_kind_are_accepted(kind: str) -> None:
    content = to_bytes(KINDS[kind]())
    refuse_other_stream(HuggingFace(content), model=content, path=PATH)


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.BPEDecoder(),
        decoders.WordPiece(cleanup=False),
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 1)]),
    ],
)
def test_decoders_whose_text_grows_are_accepted(decoder: Any) -> None:
    tokenizer = word_pieces()
    tokenizer.decoder = decoder
    content = to_bytes(tokenizer)
    refuse_other_stream(HuggingFace(content), model=content, path=PATH)


def test_a_vocabulary_that_lacks_characters_and_an_unknown_token_is_accepted() -> None:
    tokenizer = Tokenizer(models.Unigram([("a", -1.0), (" ", -1.0)]))
    content = to_bytes(tokenizer)
    with pytest.raises(ContractError, match="cannot encode a text"):
        HuggingFace(content).encode("b")
    refuse_other_stream(HuggingFace(content), model=content, path=PATH)


def test_a_decoder_that_drops_doubled_tokens_is_refused_before_tracing(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    tokenizer = byte_level()
    tokenizer.decoder = decoders.CTC(pad_token="<pad>")
    folder = save(tokenizer, tiny_checkpoint(vocab_size=640))
    with pytest.raises(CheckpointError) as refused:
        preflight(folder, tmp_path / "out", ExportOptions(quant="fp32", target="ort"))
    token = tokenizer.token_to_id("a")
    assert str(refused.value).startswith(
        f"{folder / 'tokenizer.json'}: tokens [{token}] are '' one by one, and 'a' together "
        "(decoder CTC), expected one text, since text is given as tokens come; take the tokenizer"
    )


def test_a_decoder_that_changes_text_over_two_tokens_is_refused() -> None:
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Fuse(), decoders.Replace("aa", "b")]
    )
    content = to_bytes(tokenizer)
    said = re.escape("'a' one by one, and 'b' together (decoder ByteLevel, Fuse, Replace)")
    with pytest.raises(CheckpointError, match=said):
        refuse_other_stream(HuggingFace(content), model=content, path=PATH)
