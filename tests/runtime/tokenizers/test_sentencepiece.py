"""Tokens of text, and text of tokens, whole characters at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tramontane.runtime.errors import ContractError
from tramontane.runtime.manifest import Vocabulary
from tramontane.runtime.tokenizers.sentencepiece import Detokenizer, Tokenizer

MODEL = Path(__file__).parents[3] / "models/stdlib-5m/tokenizer.model"
TEXT = "def greet(name):\n    return f'Grüße, {name}! 你好 🌍🎉'\n"


def tokenizer(*, bos: int | None = 1, adds: bool = True) -> Tokenizer:
    return Tokenizer(MODEL, Vocabulary(bos_token_id=bos, eos_token_ids=(2,), add_bos_token=adds))


def test_text_survives_encoding_and_decoding() -> None:
    assert tokenizer().decode(tokenizer().encode(TEXT)) == TEXT


def test_start_token_leads_the_first_prompt_alone_and_only_if_wanted() -> None:
    bare = tokenizer(adds=False).encode("x")
    assert tokenizer().encode("x") == [1, *bare]
    assert tokenizer().encode("x", is_first=False) == bare


def test_streamed_text_is_the_decoded_text_and_holds_no_half_characters() -> None:
    tokens = tokenizer().encode(TEXT)
    stream = Detokenizer(tokenizer())
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) == TEXT
    assert not any("�" in piece for piece in pieces)
    assert "" in pieces[1:]  # some character did wait for its bytes
    assert stream.flush() == ""


def test_unfinished_character_appears_on_flush_only() -> None:
    tokens = tokenizer(adds=False).encode("x🌍")[:-1]
    stream = Detokenizer(tokenizer())
    assert "".join(stream.push(token) for token in tokens) == "x"
    assert set(stream.flush()) == {"�"}


def test_any_split_into_prompt_and_continuation_keeps_its_spaces() -> None:
    text = "  for x in xs:  return  x"
    tokens = tokenizer().encode(text)
    for split in range(len(tokens) + 1):
        prompt = tokens[:split]
        stream = Detokenizer(tokenizer(), prompt)
        pieces = "".join(stream.push(token) for token in tokens[split:]) + stream.flush()
        assert tokenizer().decode(prompt) + pieces == text


def test_streaming_random_tokens_equals_decoding_them() -> None:
    words = tokenizer()
    draw = np.random.default_rng(0)
    size = len(words)
    for trial in range(200):
        # Few tokens other than bytes and control tokens: malformed UTF-8 in plenty.
        tokens = draw.integers(0, 300 if trial % 2 else size, 40).tolist()
        stream = Detokenizer(words)
        text = "".join(stream.push(token) for token in tokens) + stream.flush()
        assert text == words.decode(tokens), tokens


def test_empty_prompt_without_start_token_is_refused() -> None:
    assert tokenizer().encode("") == [1]
    with pytest.raises(ContractError, match="--prompt: nothing to decode from.*this tokenizer"):
        tokenizer(adds=False).encode("")
    with pytest.raises(ContractError, match="a later turn has no start token"):
        tokenizer().encode("", is_first=False)


PADDED = 2048 + 64  # tokens of a model with more of them than the tokenizer has pieces


def padded() -> Tokenizer:
    words = Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True)
    return Tokenizer(MODEL, words, vocab_size=PADDED)


def test_a_token_without_a_piece_adds_no_text_wherever_it_stands() -> None:
    tokens = tokenizer().encode(TEXT)
    for token in (2048, PADDED - 1):
        for place in range(len(tokens) + 1):  # also between the bytes of one character
            assert padded().decode([*tokens[:place], token, *tokens[place:]]) == TEXT
    assert padded().decode([2048, 2049]) == ""


def test_streaming_tokens_without_pieces_equals_decoding_them() -> None:
    words = padded()
    draw = np.random.default_rng(1)
    for trial in range(200):
        low = draw.integers(0, 300 if trial % 2 else 2048, 40)
        tokens = np.where(draw.random(40) < 0.3, draw.integers(2048, PADDED, 40), low).tolist()
        for split in (0, 1, 7):
            stream = Detokenizer(words, tokens[:split])
            text = "".join(stream.push(token) for token in tokens[split:]) + stream.flush()
            if not split:
                assert text == words.decode(tokens), tokens
            pieces = [token for token in tokens if token < 2048]
            before = sum(token < 2048 for token in tokens[:split])
            alone = Detokenizer(words, pieces[:before])
            assert text == "".join(map(alone.push, pieces[before:])) + alone.flush(), tokens


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    for words, last in ((tokenizer(), 2047), (padded(), PADDED - 1)):
        stream = Detokenizer(words)
        for token in (-1, last + 1):
            expected = rf"tokenizer\.model: token {token}; expected 0 to {last}, the vocabulary"
            with pytest.raises(ContractError, match=expected):
                words.decode([5, token])
            with pytest.raises(ContractError, match=expected):
                stream.push(token)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("ab\ud83d c", r"prompt: character 2 near 'ab\\ud83d c' is U\+D83D, half of a surrogate"),
        ("\udc00", r"prompt: character 0 near .* is U\+DC00, half of a surrogate pair, expected"),
        ("\udfff", r"is U\+DFFF.*; join the halves by text\.encode\('utf-16', 'surrogatepass'\)"),
        ("\ud83d\ude00", r"character 0 near .* is U\+D83D"),
        ("caf\udce9 au", r"character 3 near .* is the byte 0xE9, which is not UTF-8, .*iconv"),
    ],
)
def test_text_that_is_not_unicode_is_refused_in_one_line_of_ascii(
    prompt: str, message: str
) -> None:
    for adds in (True, False):
        with pytest.raises(ContractError, match=message) as found:
            tokenizer(adds=adds).encode(prompt)
        assert str(found.value).isascii()
        assert "\n" not in str(found.value)


def test_missing_or_foreign_model_is_refused_by_name(tmp_path: Path) -> None:
    words = Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True)
    path = tmp_path / "tokenizer.model"
    with pytest.raises(ContractError, match=r"tokenizer\.model: missing"):
        Tokenizer(path, words)
    path.write_bytes(b"not a model at all")
    with pytest.raises(ContractError, match=r"tokenizer\.model: not a sentencepiece model"):
        Tokenizer(path, words)
    with pytest.raises(ContractError, match="begin with a start token, but none is named"):
        tokenizer(bos=None)
