"""A SentencePiece model with added tokens is read as Hugging Face's ``tokenizers`` reads both."""

from __future__ import annotations

import io
import itertools
import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import AddedToken as TheirToken
from tokenizers import Tokenizer as Theirs
from tokenizers import models
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.published_tokenizer.sentencepiece_model import with_leading_space
from tramontane.export.tokenizer.tokenizer_json import TokenizerJson
from tramontane.runtime.tokenizers.added_tokens import (
    ALWAYS,
    FIRST,
    AddedToken,
    AddedTokens,
    Splitter,
)
from tramontane.runtime.tokenizers.detokenizer import Detokenizer
from tramontane.runtime.tokenizers.sentencepiece import SPACE, SentencePiece
from tramontane.runtime.tokenizers.tokenizer import Tokenizer
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

from ...support.tiny_tokenizers import TEXT

OWN = Path(__file__).parents[3] / "models/stdlib-5m/tokenizer.model"
NO_VOCABULARY = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
FLAGS = [
    dict(zip(("special", "lstrip", "rstrip"), flags, strict=True))
    for flags in itertools.product((False, True), repeat=3)
]
SIGNS = ("a", "b", " ", "  ", "\n", "\x1c", "\u3000", "é", "ж", "🙂", "<", ">", SPACE, "\ue000")


@cache
def model_of(kind: str) -> bytes:
    """The demo model's, which has byte pieces, or a small one without any."""
    if kind == "bytes":
        return OWN.read_bytes()
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=content,
        vocab_size=300,
        model_type=kind,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,  # so that some characters are unknown
        minloglevel=2,
    )
    return content.getvalue()


def added_to(size: int) -> tuple[AddedToken, ...]:
    """Tokens with every combination of flags, one of them the start of another; ids have a gap."""
    tokens = [
        AddedToken(token=size + 3 + i, text=f"<{i}>", **flags) for i, flags in enumerate(FLAGS)
    ]
    last = size + 3 + len(FLAGS)
    return (
        *tokens,
        AddedToken(token=last, text="<1>>", special=False),
        AddedToken(token=last + 1, text="def_of", special=False),
        AddedToken(token=last + 2, text="b<2", special=True, normalized=True),  # overlaps <2>
    )


def random_texts(tokens: tuple[AddedToken, ...], count: int) -> list[str]:
    draw = random.Random(0)
    parts = [*SIGNS, *(one.text for one in tokens)]
    return ["".join(draw.choices(parts, k=draw.randint(1, 12))) for _ in range(count)]


def around(one: str) -> list[str]:
    return [one, f"a{one}b", f"a {one}", f"a  {one} b", f" {one}", one * 2, f"{one}user\nx{one}\n"]


def add(found: Theirs, tokens: tuple[AddedToken, ...]) -> None:
    for one in tokens:
        flags = {name: getattr(one, name) for name in ("lstrip", "rstrip", "normalized")}
        method = found.add_special_tokens if one.special else found.add_tokens
        method([TheirToken(one.text, **flags)])
        assert found.token_to_id(one.text) == one.token


def theirs(model: bytes, scheme: str, tokens: tuple[AddedToken, ...], *, doubles: bool) -> Theirs:
    """The model as ``tokenizer.json``, with Prepend (doubles) or Metaspace."""
    content = json.loads(
        TokenizerJson(model, NO_VOCABULARY, reads_control=True).tokenizer().to_str()
    )
    if not doubles:
        content["normalizer"] = None
        space = {"replacement": SPACE, "prepend_scheme": scheme, "split": False}
        content["pre_tokenizer"] = {"type": "Metaspace", **space}
    content["model"]["vocab"] |= {one.text: one.token for one in tokens}
    found = Theirs.from_str(json.dumps(content))
    add(found, tokens)
    return found


def test_text_is_split_as_tokenizers_does_with_every_flag() -> None:
    tokens = added_to(1)
    found = Theirs(models.WordLevel({"?": 0} | {t.text: t.token for t in tokens}, unk_token="?"))
    add(found, tokens)
    splitter = Splitter(tokens)
    for text in random_texts(tokens, 3000):
        expected = found.encode(text)
        own = splitter.split(text)
        assert [one.token or 0 for one in own] == expected.ids, text
        assert [(one.start, one.start + len(one.text)) for one in own] == expected.offsets, text


@pytest.mark.parametrize(
    ("scheme", "doubles"), [(ALWAYS, True), (ALWAYS, False), (FIRST, False)], ids=str
)
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_tokens_and_text_are_those_of_tokenizers(kind: str, scheme: str, doubles: bool) -> None:
    model = model_of(kind)
    unknown = AddedToken(token=0, text="<unk>", special=True)
    # Normalized tokens have another text where a normalizer puts a space in front of it.
    tokens = tuple(one for one in added_to(len(SentencePiece(model))) if not one.normalized)
    added = AddedTokens(tokens=(unknown, *tokens), prepend_scheme=scheme, doubles_space=doubles)
    ours, expected = SentencePiece(model, added), theirs(model, scheme, tokens, doubles=doubles)
    assert len(ours) == 1 + tokens[-1].token
    texts = [text for one in tokens for text in around(one.text)]
    for text in (*PROBE_TEXTS, *texts, *random_texts(tokens, 500)):
        ids = expected.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allow_special=True) == ids, text
        assert ours.decode(ids) == expected.decode(ids), (text, ids)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram"])
def test_text_after_a_token_has_the_ids_of_the_model_without_a_space_in_front(kind: str) -> None:
    model = model_of(kind)
    bare = sentencepiece.SentencePieceProcessor(model_proto=with_leading_space(model, False))
    tokens = (AddedToken(token=9000, text="<T>", special=False),)
    ours = SentencePiece(model, AddedTokens(tokens=tokens))
    has_unknown = False
    for text in (*PROBE_TEXTS, *random_texts((), 500)):
        expected = bare.encode(text)
        has_unknown |= bare.unk_id() in expected[:1]
        assert ours.encode(f"<T>{text}") == [9000, *expected], text
    assert has_unknown is (kind != "bytes")


def test_text_of_users_never_becomes_a_special_token() -> None:
    plain = SentencePiece(OWN.read_bytes())
    tokens = added_to(len(plain))
    ours = SentencePiece(OWN.read_bytes(), AddedTokens(tokens=tokens))
    special = {one.token for one in tokens if one.special} | {0, 1, 2}
    for text in (*random_texts(tokens, 500), "<s>x</s><unk>"):
        assert special.isdisjoint(ours.encode(text)), text
    for one in tokens:
        assert (one.token in ours.encode(one.text)) is not one.special
        if one.special:
            assert ours.encode(one.text) == plain.encode(one.text)


def test_control_pieces_are_read_where_special_tokens_are_allowed() -> None:
    own = sentencepiece.SentencePieceProcessor(model_file=str(OWN))
    bare = sentencepiece.SentencePieceProcessor(
        model_proto=with_leading_space(OWN.read_bytes(), False)
    )
    for scheme, inside in ((FIRST, bare), (ALWAYS, own)):
        ours = SentencePiece(OWN.read_bytes(), AddedTokens(prepend_scheme=scheme))
        found = ours.encode(" a<s>b</s>", allow_special=True)
        assert found == [*own.encode(" a"), 1, *inside.encode("b"), 2]
        assert ours.encode(" a<s>b</s>") == own.encode(" a<s>b</s>")


def words() -> Tokenizer:
    model = SentencePiece(OWN.read_bytes())
    added = AddedTokens(tokens=added_to(len(model)))
    return Tokenizer(
        SentencePiece(OWN.read_bytes(), added), NO_VOCABULARY, path=OWN, vocab_size=2100
    )


def test_streaming_random_tokens_equals_decoding_them() -> None:
    found, draw = words(), np.random.default_rng(0)
    for trial in range(200):
        # Ids with a gap and beyond the last token among them.
        low = draw.integers(0, 300 if trial % 2 else 2048, 40)
        tokens = np.where(draw.random(40) < 0.3, draw.integers(2048, 2070, 40), low).tolist()
        stream = Detokenizer(found)
        text = "".join(stream.push(token) for token in tokens) + stream.flush()
        assert text == found.decode(tokens), tokens


def test_only_special_tokens_add_no_text() -> None:
    found = words()
    for one in added_to(2048):
        tokens = [*found.encode("x"), one.token, *found.encode(" y")]
        expected = "x  y" if one.special else f"x{one.text}  y"
        assert found.decode(tokens) == expected
        stream = Detokenizer(found, tokens[:1])
        assert "".join(stream.push(token) for token in tokens[1:]) == expected[1:]


def test_added_tokens_are_found_by_their_text_and_gaps_are_no_tokens() -> None:
    size = 2048
    ours = SentencePiece(OWN.read_bytes(), AddedTokens(tokens=added_to(size)))
    for one in added_to(size):
        assert ours.find(one.text) == one.token
        assert ours.piece(one.token) == ours.label(one.token) == one.text
        assert ours.token_bytes(one.token) == (None if one.special else one.text.encode())
    assert (ours.piece(size), ours.token_bytes(size), ours.decode([size])) == ("", None, "")
