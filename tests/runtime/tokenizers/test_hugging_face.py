"""Every kind of ``tokenizer.json`` is read as Hugging Face's ``tokenizers`` reads it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Theirs
from tramontane.runtime.errors import ContractError
from tramontane.runtime.tokenizers.detokenizer import Detokenizer
from tramontane.runtime.tokenizers.hugging_face import HuggingFace
from tramontane.runtime.tokenizers.tokenizer import Tokenizer
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

from ...support.gaps import thread_gaps
from ...support.tiny_tokenizers import END, KINDS, SPECIAL, START, non_special

TEXTS = (
    "Hello  World 123", "  two spaces, then\n\ttabs ", "Grüße 你好 🌍🎉 e\u0301", "a", " a", "", "\n",
    "<|im_start|>user\nhi<|im_end|>\n", "x<|end|>y", "<unk>", "<|begin|><|begin|>", "<0xE2>",
)  # fmt: skip


@cache
def theirs(kind: str) -> Theirs:
    found = KINDS[kind]()
    found.add_tokens(
        [non_special("<tool>", normalized=False), non_special("Xyz", single_word=True)]
    )
    return found


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ours(kind: str) -> HuggingFace:
    return HuggingFace(theirs(kind).to_str().encode())


def test_a_long_text_has_their_ids_and_other_threads_run_meanwhile(kind: str) -> None:
    text, codec = "Hello World 123 <|end|> " * 10_000, ours(kind)
    assert codec.encode(text, allow_special=True) == (
        theirs(kind).encode(text, add_special_tokens=False).ids
    )
    with thread_gaps() as gaps:
        start = time.perf_counter()
        codec.encode(text)
        seconds = time.perf_counter() - start
    assert max(gaps) < max(0.5 * seconds, 0.05)


def words_of(kind: str) -> Tokenizer:
    vocabulary = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
    return Tokenizer(ours(kind), vocabulary, path=Path("tokenizer.json"))


def test_text_without_special_tokens_has_their_ids_and_decodes_as_theirs(kind: str) -> None:
    found, expected = ours(kind), theirs(kind)
    for text in (*TEXTS, "<tool>", "a<tool> b", "Xyz", "aXyz b Xyz"):
        ids = expected.encode(text, add_special_tokens=False).ids
        assert found.encode(text, allow_special=True) == ids, text
        assert found.decode(ids) == expected.decode(ids), text
        if not any(special in text for special in (*SPECIAL, "<unk>")):
            assert found.encode(text) == ids, text


def test_text_that_spells_a_special_token_is_text_and_other_added_tokens_are_tokens(
    kind: str,
) -> None:
    found, expected = ours(kind), theirs(kind)
    unknown = expected.token_to_id("<unk>")
    special = {expected.token_to_id(token) for token in SPECIAL}
    tool = expected.token_to_id("<tool>")
    for token in SPECIAL:
        assert found.encode(token, allow_special=True) == [expected.token_to_id(token)]
        for text in (token, f"a{token}b", f" {token} ", f"{token}{token}"):
            ids = found.encode(text)
            assert special.isdisjoint(ids), text
            if unknown is None:
                assert found.decode(ids) == text
        assert found.encode(f"{token}<tool>").count(tool) == 1


def test_a_special_token_that_merges_make_is_no_token_in_text() -> None:
    content = json.loads(theirs("byte_level").to_str())
    made = "".join(content["model"]["merges"][0])
    token = content["model"]["vocab"][made]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"].append({"id": token, "content": made, "special": True, **flags})
    found = HuggingFace(json.dumps(content).encode())
    text = found.decode(theirs("byte_level").encode(f"{made} x{made}").ids)
    assert token not in found.encode(made + text)
    assert token in found.encode(made, allow_special=True)


def test_tokens_have_the_names_of_the_file(kind: str) -> None:
    found, expected = ours(kind), theirs(kind)
    assert len(found) == expected.get_vocab_size()
    added = expected.get_added_tokens_decoder()
    for token in range(len(found)):
        piece = added[token].content if token in added else expected.id_to_token(token)
        assert piece is not None
        assert found.piece(token) == piece
        assert found.find(piece) == token
    assert found.find("no such piece") is None
    assert found.piece(len(found)) == ""
    assert found.label(expected.token_to_id(START)) == START
    assert found.token_bytes(expected.token_to_id(END)) is None


def test_streamed_text_is_the_decoded_text_and_holds_no_half_characters(kind: str) -> None:
    words = words_of(kind)
    text = "for x in xs:  print('Grüße 你好 🌍🎉')\n"
    tokens = words.encode(text)
    stream = Detokenizer(words)
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) + stream.flush() == words.decode(tokens)
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_special_token_between_the_bytes_of_a_character_changes_nothing() -> None:
    words = words_of("byte_level")
    end = theirs("byte_level").token_to_id(END)
    tokens = [one for token in words.encode("x🌍y") for one in (token, end)]
    stream = Detokenizer(words)
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) == words.decode(tokens) == "x🌍y"


def test_streaming_random_tokens_equals_decoding_them(kind: str) -> None:
    words = words_of(kind)
    draw = np.random.default_rng(0)
    for trial in range(60):
        tokens = draw.integers(0, 300 if trial % 2 else len(words), 40).tolist()
        stream = Detokenizer(words)
        text = "".join(stream.push(token) for token in tokens) + stream.flush()
        assert text == words.decode(tokens), tokens


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"model": {"type": "Other"}}'])
def test_other_content_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        HuggingFace(content)


@pytest.mark.parametrize(
    "spoil",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}
            | {"continuing_subword_prefix": "####"}
        },
    ],
    ids=["charsmap", "prefix"],
)
def test_a_file_on_which_tokenizers_panics_is_refused(spoil: dict[str, Any]) -> None:
    content = json.loads(KINDS["byte_level"]().to_str()) | spoil
    with pytest.raises(BaseException) as panic:  # noqa: PT011 - it has no type of its own
        Theirs.from_str(json.dumps(content))
    assert not isinstance(panic.value, Exception)
    with pytest.raises(ValueError, match="."):
        HuggingFace(json.dumps(content).encode())


def test_a_panic_while_encoding_or_decoding_is_a_typed_error() -> None:
    content = json.loads(KINDS["byte_level"]().to_str())
    cut = {"pre_tokenizer": {"type": "FixedLength", "length": 0}}
    with pytest.raises(ContractError, match="cannot encode a text with it .chunk size must be no"):
        HuggingFace(json.dumps(content | cut).encode()).encode("ab")
    with pytest.raises(ContractError, match="cannot encode a text with it .chunk size must be no"):
        HuggingFace(json.dumps(content | cut).encode()).encode("ab" * 10_000)
    strip = {"decoder": {"type": "Strip", "content": "a", "start": 5, "stop": 5}}
    codec = HuggingFace(json.dumps(content | strip).encode())
    with pytest.raises(ContractError, match="cannot decode tokens with it .index out of bounds"):
        codec.decode([codec.find("a") or 0])


def test_truncation_and_padding_of_the_file_are_not_applied() -> None:
    made = KINDS["byte_level"]()
    made.enable_truncation(3)
    made.enable_padding(length=50)
    found: Callable[[str], list[int]] = HuggingFace(made.to_str().encode()).encode
    assert found("a b c d e f g") == HuggingFace(KINDS["byte_level"]().to_str().encode()).encode(
        "a b c d e f g"
    )


def test_a_special_token_that_merges_make_and_the_vocabulary_lacks_is_refused() -> None:
    content = json.loads(theirs("byte_level").to_str())
    left, right = content["model"]["merges"][0]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    token = content["model"]["vocab"].pop(left + right)
    content["added_tokens"].append(
        {"id": token, "content": left + right, "special": True, **flags}
    )
    content["model"]["merges"] = [
        one for one in content["model"]["merges"] if left + right not in one
    ] + [[left, right]]
    with pytest.raises(ValueError, match="out of vocabulary"):
        HuggingFace(json.dumps(content).encode())
