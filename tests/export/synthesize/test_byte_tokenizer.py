"""Does a tokenizer that was trained on nothing read and write any text?"""

from __future__ import annotations

import pytest
import sentencepiece
from tramontane.export.synthesize.byte_tokenizer import byte_tokenizer
from tramontane.runtime.errors import ConfigError

VOCABULARY = 2048


@pytest.fixture(scope="module")
def tokenizer() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=byte_tokenizer(VOCABULARY))


@pytest.mark.parametrize("vocab_size", [354, 2048, 32016])
def test_it_has_as_many_pieces_as_wanted_all_different(vocab_size: int) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=byte_tokenizer(vocab_size))
    assert processor.vocab_size() == vocab_size
    assert len({processor.id_to_piece(i) for i in range(vocab_size)}) == vocab_size


def test_start_and_end_are_where_mistral_and_llama_have_them(
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> None:
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id()) == (0, 1, 2)
    assert tokenizer.pad_id() == -1


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x", "  two", "é ∀ 🜁", "\x00\t", "filler999"]
)
def test_text_comes_back_as_it_was(
    tokenizer: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert max(ids) < 354  # no filler


def test_every_id_decodes_to_a_text(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    texts = [tokenizer.decode([i]) for i in range(VOCABULARY)]
    assert all(isinstance(text, str) for text in texts)
    assert texts[-1] == "filler2047"
    assert len(set(texts[354:])) == VOCABULARY - 354


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="^vocab_size is 353; expected at least 354, room for"):
        byte_tokenizer(353)
