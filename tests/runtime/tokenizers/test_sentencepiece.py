"""The SentencePiece kind does what SentencePiece does."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from tramontane.runtime.tokenizers.sentencepiece import SentencePiece

MODEL = Path(__file__).parents[3] / "models/stdlib-5m/tokenizer.model"
TEXT = "def greet(name):\n    return f'Grüße, {name}! 你好 🌍🎉'\n"


@pytest.fixture(scope="module")
def found() -> SentencePiece:
    return SentencePiece(MODEL.read_bytes())


@pytest.fixture(scope="module")
def expected() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


def test_tokens_and_text_are_sentencepiece_s(
    found: SentencePiece, expected: sentencepiece.SentencePieceProcessor
) -> None:
    assert len(found) == expected.vocab_size() == 2048
    assert found.encode(TEXT) == expected.encode(TEXT)
    assert found.decode(found.encode(TEXT)) == expected.decode(expected.encode(TEXT)) == TEXT
    assert (found.start_token, found.end_token) == (expected.bos_id(), expected.eos_id())


def test_bytes_of_tokens_join_to_the_text_after_the_space_that_leads_a_sequence(
    found: SentencePiece,
) -> None:
    for text in (TEXT, "x", "  y", "🌍"):
        assert b"".join(map(found.token_bytes, found.encode(text))).decode() == f" {text}"


def test_control_tokens_add_no_bytes_and_the_unknown_token_its_sign(found: SentencePiece) -> None:
    assert [found.token_bytes(token) for token in (1, 2)] == [b"", b""]
    assert found.token_bytes(0).decode() == found.decode([0]) == " \u2047 "


def test_a_byte_piece_is_one_byte_and_is_labelled_by_its_piece(found: SentencePiece) -> None:
    token = found.find("<0xE2>")
    assert token is not None
    assert found.token_bytes(token) == b"\xe2"
    assert found.label(token) == "<0xE2>"


def test_pieces_are_found_by_their_exact_text_and_labels_have_spaces(found: SentencePiece) -> None:
    for token in (0, 1, 2, 3, 300, 2047):
        assert found.find(found.piece(token)) == token
    assert found.find("no such piece") is None
    assert found.label(found.encode(" x")[0]) == found.piece(found.encode(" x")[0]).replace(
        "▁", " "
    )


@pytest.mark.parametrize("content", [b"", b"not a model at all"])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        SentencePiece(content)


@pytest.mark.parametrize("piece", ["<unk>", "<s>", "return"])
def test_a_piece_that_is_not_utf8_is_refused_when_the_model_is_read(piece: str) -> None:
    named = piece.encode()
    broken = MODEL.read_bytes().replace(named, named[:-1] + b"\xff", 1)
    with pytest.raises(ValueError, match=r"piece b'.*\\xff' is not UTF-8"):
        SentencePiece(broken)
