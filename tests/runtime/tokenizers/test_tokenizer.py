"""Prompts become tokens of the model, and tokens become text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tramontane.runtime.errors import ContractError
from tramontane.runtime.tokenizers.tokenizer import Tokenizer

TEXT = "def greet(name):\n    return f'Grüße, {name}! 你好 🌍🎉'\n"
PADDED = 2048 + 64  # tokens of a model with more of them than the tokenizer has pieces


def test_text_survives_encoding_and_decoding(tokenizer: Callable[..., Tokenizer]) -> None:
    assert tokenizer().decode(tokenizer().encode(TEXT)) == TEXT


def test_start_token_leads_the_first_prompt_alone_and_only_if_wanted(
    tokenizer: Callable[..., Tokenizer],
) -> None:
    bare = tokenizer(adds=False).encode("x")
    assert tokenizer().encode("x") == [1, *bare]
    assert tokenizer().encode("x", is_first=False) == bare


def test_empty_prompt_without_start_token_is_refused(tokenizer: Callable[..., Tokenizer]) -> None:
    assert tokenizer().encode("") == [1]
    with pytest.raises(ContractError, match="^prompt: nothing to decode from.*this tokenizer"):
        tokenizer(adds=False).encode("")
    with pytest.raises(ContractError, match="a later turn has no start token"):
        tokenizer().encode("", is_first=False)


def test_a_token_without_a_piece_adds_no_text_wherever_it_stands(
    tokenizer: Callable[..., Tokenizer], padded: Tokenizer
) -> None:
    tokens = tokenizer().encode(TEXT)
    for token in (2048, PADDED - 1):
        for place in range(len(tokens) + 1):  # also between the bytes of one character
            assert padded.decode([*tokens[:place], token, *tokens[place:]]) == TEXT
    assert padded.decode([2048, 2049]) == ""


@pytest.mark.parametrize("token", [1.7, "5", None, [1], float("nan")])
def test_a_token_that_is_no_whole_number_is_refused(
    tokenizer: Callable[..., Tokenizer], token: Any
) -> None:
    for read in (lambda: tokenizer().decode([token]), lambda: tokenizer().token_bytes(token)):
        with pytest.raises(ContractError, match="token .*; expected a whole number, as encode"):
            read()
    assert tokenizer().decode(np.array([500, 501])) == tokenizer().decode([500, 501])


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
    prompt: str, message: str, tokenizer: Callable[..., Tokenizer]
) -> None:
    for adds in (True, False):
        with pytest.raises(ContractError, match=message) as found:
            tokenizer(adds=adds).encode(prompt)
        assert str(found.value).isascii()
        assert "\n" not in str(found.value)
