"""Text is streamed whole characters at a time, and is the decoded text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.runtime.errors import ContractError
from tramontane.runtime.tokenizers.detokenizer import Detokenizer
from tramontane.runtime.tokenizers.tokenizer import Tokenizer

TEXT = "def greet(name):\n    return f'Grüße, {name}! 你好 🌍🎉'\n"
PADDED = 2048 + 64  # tokens of a model with more of them than the tokenizer has pieces


def test_streamed_text_is_the_decoded_text_and_holds_no_half_characters(
    tokenizer: Callable[..., Tokenizer],
) -> None:
    tokens = tokenizer().encode(TEXT)
    stream = Detokenizer(tokenizer())
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) == TEXT
    assert not any("�" in piece for piece in pieces)
    assert "" in pieces[1:]  # some character did wait for its bytes
    assert stream.flush() == ""


def test_unfinished_character_appears_on_flush_only(tokenizer: Callable[..., Tokenizer]) -> None:
    tokens = tokenizer(adds=False).encode("x🌍")[:-1]
    stream = Detokenizer(tokenizer())
    assert "".join(stream.push(token) for token in tokens) == "x"
    assert set(stream.flush()) == {"�"}


def test_any_split_into_prompt_and_continuation_keeps_its_spaces(
    tokenizer: Callable[..., Tokenizer],
) -> None:
    text = "  for x in xs:  return  x"
    tokens = tokenizer().encode(text)
    for split in range(len(tokens) + 1):
        prompt = tokens[:split]
        stream = Detokenizer(tokenizer(), prompt)
        pieces = "".join(stream.push(token) for token in tokens[split:]) + stream.flush()
        assert tokenizer().decode(prompt) + pieces == text


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_that_the_prompt_ends_inside_is_given_whole(
    tokenizer: Callable[..., Tokenizer], cut: int
) -> None:
    tokens = tokenizer().encode("x🌍")
    stream = Detokenizer(tokenizer(), tokens[:-cut])
    pieces = [stream.push(token) for token in [*tokens[-cut:], *tokenizer().encode("é")[1:]]]
    assert [piece for piece in pieces if piece] == ["🌍", " ", "é"]
    alone = Detokenizer(tokenizer(), tokens[:-cut])
    assert alone.flush() == ""


def test_streaming_random_tokens_equals_decoding_them(tokenizer: Callable[..., Tokenizer]) -> None:
    words = tokenizer()
    draw = np.random.default_rng(0)
    size = len(words)
    for trial in range(200):
        # Few tokens other than bytes and control tokens: malformed UTF-8 in plenty.
        tokens = draw.integers(0, 300 if trial % 2 else size, 40).tolist()
        stream = Detokenizer(words)
        text = "".join(stream.push(token) for token in tokens) + stream.flush()
        assert text == words.decode(tokens), tokens


def test_streaming_tokens_without_pieces_equals_decoding_them(
    tokenizer: Callable[..., Tokenizer], padded: Tokenizer
) -> None:
    words = padded
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


def test_a_token_outside_the_vocabulary_is_refused(
    tokenizer: Callable[..., Tokenizer], padded: Tokenizer
) -> None:
    for words, last in ((tokenizer(), 2047), (padded, PADDED - 1)):
        stream = Detokenizer(words)
        for token in (-1, last + 1):
            expected = rf"tokenizer\.model: token {token}; expected 0 to {last}, the vocabulary"
            with pytest.raises(ContractError, match=expected):
                words.decode([5, token])
            with pytest.raises(ContractError, match=expected):
                stream.push(token)


@pytest.mark.parametrize("number", [1, 259])  # the start token; a space, which begins no text
def test_the_time_of_tokens_without_text_grows_with_their_number_alone(
    tokenizer: Callable[..., Tokenizer], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tokenizer()
    stream, decoded = Detokenizer(words), []
    decode = words.decode
    monkeypatch.setattr(
        words, "decode", lambda tokens: decoded.append(len(tokens)) or decode(tokens)
    )
    text = "".join(stream.push(number) for _ in range(1000)) + stream.flush()
    assert sum(decoded) < 10_000
    assert text == decode([number] * 1000)
