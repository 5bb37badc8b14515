"""Tests of what a ``tokenizer.json`` puts around a text, whatever its vocabulary."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, processors
from tramontane.export.published_tokenizer.json_parts import read_around, to_bytes, without_ends

START, END = "<s>", "</s>"


def around(tokenizer: Tokenizer) -> Tokenizer:
    ids = [(one, tokenizer.token_to_id(one)) for one in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[START, "$A", END], special_tokens=ids
    )
    return tokenizer


@pytest.mark.parametrize("piece", ["a", "0", "x", "ж", "ꙮ"])
def test_the_tokens_around_a_text_are_found_whatever_the_vocabulary_has(piece: str) -> None:
    """A model without an unknown token drops all other characters."""
    tokenizer = around(Tokenizer(models.BPE(vocab={START: 0, END: 1, piece: 2}, merges=[])))
    assert tokenizer.encode("b").ids == [0, 1]
    content = to_bytes(tokenizer)
    assert read_around(content) == ([0], [1])
    found, ends = without_ends(content)
    assert ends == [END]
    assert read_around(found) == ([0], [])


def test_texts_that_cannot_be_encoded_are_passed_over() -> None:
    pieces = [(START, 0.0), (END, 0.0), ("ж", -1.0)]
    tokenizer = around(Tokenizer(models.Unigram(pieces)))
    with pytest.raises(Exception, match="unknown token"):
        tokenizer.encode("a")
    assert read_around(to_bytes(tokenizer)) == ([0], [1])


def test_a_text_whose_token_is_the_start_token_too_is_told_from_it() -> None:
    vocabulary = {START: 0, END: 1, "ж": 2}
    tokenizer = around(Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=START)))
    assert tokenizer.encode("a").ids == [0, 0, 1]
    assert read_around(to_bytes(tokenizer)) == ([0], [1])


def test_where_no_text_has_tokens_nothing_is_known() -> None:
    tokenizer = around(Tokenizer(models.BPE(vocab={START: 0, END: 1}, merges=[])))
    assert read_around(to_bytes(tokenizer)) is None
    assert read_around(b"{}") is None
