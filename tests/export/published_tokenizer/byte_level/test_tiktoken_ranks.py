"""Llama 3's tiktoken file beside tokenizer.json: the tokens of tiktoken."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import tiktoken
from tokenizers import AddedToken, Tokenizer
from tramontane.export.published_tokenizer.byte_level.bpe import (
    ByteLevelBpe,
    bytes_of,
    merges_of,
    spell,
)
from tramontane.export.published_tokenizer.byte_level.pre_tokenizers import LLAMA_3, split_by
from tramontane.export.published_tokenizer.byte_level.tiktoken_ranks import (
    is_tiktoken,
    refuse_alone,
    refuse_other,
)
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.runtime.errors import CheckpointError

from .scripts import SENTENCES, trained

MODEL = Path("folder/tokenizer.model")
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")


def ranks() -> dict[bytes, int]:
    """In the order of Llama 3's bytes: printable ones first."""
    printable = sorted(range(256), key=lambda byte: spell(bytes([byte])))
    tokens = [*(bytes([byte]) for byte in printable), *trained()[256:]]
    return {token: rank for rank, token in enumerate(tokens)}


def content(tokens: dict[bytes, int]) -> bytes:
    lines = (b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in tokens.items())
    return b"".join(lines)


def published() -> Tokenizer:
    """A ``tokenizer.json`` with every pair that makes a token, as transformers' converter writes."""
    own = ranks()
    pairs = [
        (own[token], own[token[:cut]], own[token[cut:]], spell(token[:cut]), spell(token[cut:]))
        for token in own
        for cut in range(1, len(token))
        if token[:cut] in own and token[cut:] in own
    ]
    added = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    return ByteLevelBpe(
        vocabulary={spell(token): rank for token, rank in own.items()},
        merges=[(left, right) for *_, left, right in sorted(pairs)],
        pre_tokenizer=split_by(LLAMA_3),
        is_whole_first=True,
        added=added,
    ).tokenizer()


@pytest.mark.situation(
    "`tokenizer.model` of tiktoken (Llama 3) beside `tokenizer.json`", package="tiktoken"
)
def test_both_files_of_llama_3_encode_as_tiktoken() -> None:
    own = ranks()
    reference = tiktoken.Encoding("llama", pat_str=LLAMA_3, mergeable_ranks=own, special_tokens={})
    alone = ByteLevelBpe(
        vocabulary={spell(token): rank for token, rank in own.items()},
        merges=merges_of(own),
        pre_tokenizer=split_by(LLAMA_3),
        is_whole_first=False,
    ).tokenizer()
    beside = published()
    beside.encode_special_tokens = True
    for text in (*PROBE_TEXTS, *SENTENCES.values(), *map(str, range(0, 3000, 7))):
        tokens = reference.encode_ordinary(text)
        assert alone.encode(text).ids == tokens, text
        assert beside.encode(text, add_special_tokens=False).ids == tokens, text
    refuse_other(content(own), beside, MODEL)


def test_merges_join_what_tiktoken_joins_whatever_the_order_of_ranks() -> None:
    learnt = ["aa", "ba", "aaa", "ab", "abaa", "aab", "bb", "baba"]
    for shift in range(len(learnt)):
        turned = [*learnt[shift:], *learnt[:shift]]
        own = {bytes([byte]): byte for byte in range(256)}
        own |= {token.encode(): 256 + i for i, token in enumerate(turned)}
        reference = tiktoken.Encoding(
            "ab", pat_str=r"[\s\S]+", mergeable_ranks=own, special_tokens={}
        )
        found = ByteLevelBpe(
            vocabulary={spell(token): rank for token, rank in own.items()},
            merges=merges_of(own),
            pre_tokenizer=split_by(r"[\s\S]+"),
            is_whole_first=True,
        ).tokenizer()
        for number in range(2, 1 << 11):
            text = f"{number:b}"[1:].replace("0", "a").replace("1", "b")
            assert found.encode(text).ids == reference.encode_ordinary(text), (turned, text)


def test_bytes_have_the_spelling_of_the_library() -> None:
    text = "".join(map(chr, range(0x800))) + "\uffff\U0010ffff"
    spelled = "".join(each for each, _ in split_by(r"[\s\S]+").pre_tokenize_str(text))
    assert spell(text.encode()) == spelled
    assert bytes_of(spelled) == text.encode()
    assert bytes_of("a b") is None


def test_sentencepiece_is_not_tiktoken(stdlib_5m: Path) -> None:
    assert is_tiktoken(content(ranks()))
    assert not is_tiktoken((stdlib_5m / "tokenizer.model").read_bytes())


def test_file_alone_is_refused() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"^folder/tokenizer.model: is a tiktoken file \(as Llama 3 has\), which lacks the "
        "special tokens .*; copy the tokenizer.json of the same model into the folder$",
    ):
        refuse_alone(MODEL)


def test_other_ids_are_refused_by_the_first_token() -> None:
    own = ranks()
    own[b"a"], own[b"b"] = own[b"b"], own[b"a"]
    with pytest.raises(
        CheckpointError,
        match=r"^folder/tokenizer.json: 'a' is token \d+, and \d+ in tokenizer.model beside it, "
        "expected one tokenizer in both files; remove tokenizer.model if it is another model's$",
    ):
        refuse_other(content(own), published(), MODEL)


def test_other_merges_are_refused_by_the_first_text() -> None:
    own = ranks()
    without = ByteLevelBpe(
        vocabulary={spell(token): rank for token, rank in own.items()},
        merges=[],
        pre_tokenizer=split_by(LLAMA_3),
        is_whole_first=False,
    ).tokenizer()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: '.*' is \[.*\], and \[.*\] in"):
        refuse_other(content(own), without, MODEL)


@pytest.mark.parametrize("line", [b"QQ==", b"? 3", b"QQ== x", b"QQ== 1 2"])
def test_line_that_is_not_tiktokens_is_named(line: bytes) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"tokenizer.model: line 257 is b'.*' \(.*\), expected bytes in base64 and a rank",
    ):
        refuse_other(content(dict(list(ranks().items())[:256])) + line + b"\n", published(), MODEL)
