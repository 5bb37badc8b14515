"""Are tokenizers as Mistral published them read as SentencePiece reads them?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mistral_common
import pytest
import transformers
from sentencepiece import SentencePieceProcessor
from tramontane.export.formats.layouts import open_published
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.tokenizer.added_tokens import with_added_tokens
from tramontane.export.tokenizer.tokenizer import open_codec
from tramontane.export.tokenizer.tokenizer_json import (
    NotExpressible,
    TokenizerJson,
    first_difference,
)
from tramontane.runtime.tokenizers.protocol import Codec
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

from .byte_level.scripts import SENTENCES

Write = Callable[..., Path]
DATA = Path(mistral_common.__file__).parent / "data"
FILES = {path.name.rpartition(".model.")[2]: path for path in sorted(DATA.glob("*.model.v*"))}
WITH_OWN_PIECES = ("v3", "v7", "v7m1")  # which tokenizer.json has no words for
PROMPTED = Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True)
TEXTS = (*SENTENCES.values(), *PROBE_TEXTS)

pytestmark = pytest.mark.slow


def opened(folder: Path, vocab_size: int) -> Codec:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "vocab_size": vocab_size}))
    published = open_published(folder)
    return open_codec(with_added_tokens(published.read_tokenizer(), published.config))


@pytest.mark.situation(
    "`tokenizer.model` v1, v2, v3 and v7 as Mistral published them", package="mistral-common"
)
@pytest.mark.parametrize("version", FILES)
def test_published_models_encode_as_sentencepiece_in_driver_and_tokenizer_json(
    tiny_checkpoint: Write, version: str
) -> None:
    folder = tiny_checkpoint()
    (folder / "tokenizer.model").unlink()
    shutil.copy(FILES[version], folder / f"tokenizer.model.{version}")
    expected = SentencePieceProcessor(model_file=str(FILES[version]))
    codec = opened(folder, len(expected))
    assert len(codec) == len(expected)
    for text in TEXTS:
        ids = expected.encode(text)
        assert codec.encode(text) == ids, text
        assert codec.decode(ids) == expected.decode(ids), text
    content = FILES[version].read_bytes()
    if version in WITH_OWN_PIECES:
        with pytest.raises(NotExpressible, match="user-defined pieces"):
            TokenizerJson(content, PROMPTED, reads_control=False)
        return
    made = TokenizerJson(content, PROMPTED, reads_control=False).tokenizer()
    assert first_difference(made, codec) is None
    for count in range(60):  # pieces of spaces share one score
        for text in (" " * count, f"{' ' * count}def f", f"x{' ' * count}y"):
            ids = made.encode(text, add_special_tokens=False).ids
            assert ids == expected.encode(text), count


@pytest.mark.situation(
    "tokens for ChatML added to the `tokenizer.model` of Mistral-7B", package="mistral-common"
)
def test_mistral_fine_tuned_for_chats_has_the_tokens_of_transformers(
    tiny_checkpoint: Write,
) -> None:
    folder = tiny_checkpoint()
    shutil.copy(FILES["v1"], folder / "tokenizer.model")
    ids = {"<|im_end|>": 32000, "<|im_start|>": 32001}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    named = {"additional_special_tokens": [*ids], "bos_token": "<s>", "eos_token": "<|im_end|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    codec = opened(folder, 32002)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("<|im_start|>user", "<|im_start|>user\nhello<|im_end|>\n"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert codec.encode(text, allow_special=True) == ids, text
    user = codec.find("user")
    assert user is not None
    assert codec.encode("<|im_start|>user", allow_special=True) == [32001, user]
    assert len(codec.encode("<|im_start|>user")) == 8
    assert codec.decode([32001, user, 32000]) == "user"
