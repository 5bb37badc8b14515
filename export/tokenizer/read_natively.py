"""Whether the driver reads a tokenizer with added tokens from its SentencePiece model.

The driver does where the model and the added tokens encode and decode as the ``tokenizer.json``
that has both, or where no such file can be made; the kind is then ``sentencepiece``. Otherwise
the kind is ``tokenizers``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError
from ...runtime.tokenizers.added_tokens import ALWAYS, FIRST, AddedToken, AddedTokens
from ...runtime.tokenizers.hugging_face import HuggingFace
from ...runtime.tokenizers.protocol import Codec
from ...runtime.tokenizers.sentencepiece import SPACE, SentencePiece
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE
from ..published_tokenizer.listed_added_tokens import NORMALIZED, Added
from ..published_tokenizer.probe_texts import PROBE_TEXTS
from ..published_tokenizer.sentencepiece_model import (
    parse,
    puts_spaces_in_front,
    with_leading_space,
)
from ..published_tokenizer.tokenizer_files import PublishedTokenizer

SCHEMES = (ALWAYS, FIRST)  # that the driver has
_NEVER = "never"  # the model itself then puts no space
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_AROUND = ("{}", "a{}b", "a {}", "a  {} b", " {}", "{}{}", "{}user\nx{}\n", "{} \t\nx", "\n{}")


def read_natively(
    whole: PublishedTokenizer, model: PublishedTokenizer, *, as_read: bytes
) -> PublishedTokenizer:
    """The same tokenizer as the driver reads it: from the SentencePiece model where that is equal.

    Args:
        whole: the ``tokenizer.json`` that has all added tokens.
        model: the SentencePiece model beside it, which lacks some.
        as_read: ``whole`` as transformers reads it, by which the driver's tokenizer is judged,
            and which the artifact gets beside it.
    """
    try:
        found = _native(model.model, as_read)
    except ValueError:
        return whole  # the error is raised where it is opened
    if isinstance(found, str):
        return dataclasses.replace(whole, why_not_sentencepiece=found)
    origin = whole.made_from
    if as_read != whole.model:  # else other runtimes would have other tokens than the driver
        origin = f"{origin or TOKENIZER_JSON_FILE}, its spaces as transformers reads them"
    return dataclasses.replace(
        whole,
        path=model.path,
        kind=SENTENCEPIECE,
        model=found[0],
        added_tokens=found[1],
        tokenizer_json=as_read,
        made_from=origin,
    )


def beside_model(
    tokenizer: PublishedTokenizer, added: Sequence[Added], *, scheme: str, why_no_json: str
) -> PublishedTokenizer:
    """A SentencePiece model and its added tokens, where no ``tokenizer.json`` can express both.

    SentencePiece itself encodes the text between added tokens then, as transformers 4 had it.

    Args:
        tokenizer: the SentencePiece model.
        added: tokens that it lacks.
        scheme: which stretches of a text get a space in front, one of ``SCHEMES``.
        why_no_json: why there is no ``tokenizer.json``.

    Raises:
        CheckpointError: the driver cannot look for one of the tokens.

    Source: transformers 4.57, ``LlamaTokenizer.tokenize`` and ``_tokenize``.
    """
    listed = [
        {"content": one.text, "id": one.token, **(one.flags or {}), NORMALIZED: False}
        for one in added
    ]
    if why := _why_not_beside(tokenizer.model, listed):
        raise CheckpointError(
            f"{tokenizer.path}: {added[0].text!r} cannot be added to it: {why}, and no "
            f"tokenizer.json can be made of it, since {why_no_json}; save the tokenizer with "
            "transformers, which writes a tokenizer.json, and export again"
        )
    tokens = AddedTokens(tokens=tuple(map(_added, listed)), prepend_scheme=scheme)
    return dataclasses.replace(tokenizer, added_tokens=tokens)


def _why_not_beside(model: bytes, listed: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the driver cannot read tokens beside a model; None: it can."""
    if not puts_spaces_in_front(parse(model)):
        return "it writes spaces in another way"
    return next(filter(None, (_unreadable(one, {}) for one in listed)), None)


def space_rule(described: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Which stretches of a text get a space in front, and whether also those that begin with one.

    Args:
        described: content of a ``tokenizer.json``.

    Returns:
        As ``AddedTokens`` has both, or "never"; None where the file has another rule.

    Source: tokenizers 0.23, src/pre_tokenizers/metaspace.rs and src/normalizers/prepend.rs.
    """
    before = _parts(described.get("pre_tokenizer"), "pretokenizers")
    rules = _parts(described.get("normalizer"), "normalizers")
    prepends = [rule for rule in rules if rule["type"] == "Prepend"]
    spaces = [part for part in before if part["type"] == "Metaspace"]
    if [rule.get("prepend") for rule in prepends] not in ([], [SPACE]) or len(spaces) > 1:
        return None
    if not spaces:
        return (ALWAYS if prepends else _NEVER), True
    scheme = spaces[0].get("prepend_scheme", ALWAYS)
    is_known = (
        scheme in (*SCHEMES, _NEVER) and spaces[0].get("replacement") == SPACE and not prepends
    )
    return (scheme, False) if is_known else None


def _parts(part: Any, name: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    return [*part[name]] if part["type"] == "Sequence" else [part]


@lru_cache(maxsize=4)  # an export asks several times, and comparing takes seconds
def _native(model: bytes, whole: bytes) -> tuple[bytes, AddedTokens] | str:
    """The model and the added tokens beside it, or why they cannot be read so.

    Raises:
        ValueError: the content is no ``tokenizer.json``.
    """
    pieces, theirs = SentencePiece(model), HuggingFace(whole)
    described = json.loads(whole)
    rule = space_rule(described)
    if rule is None:
        return "it puts spaces in front of text in another way"
    listed = described.get("added_tokens") or ()
    if why := next(filter(None, (_unreadable(one, described) for one in listed)), None):
        return why
    if rule[0] == _NEVER:
        model, rule = with_leading_space(model, adds_space=False), (FIRST, True)
    added = AddedTokens(
        tokens=tuple(_added(one) for one in listed if not _is_in_model(one, pieces)),
        prepend_scheme=rule[0],
        doubles_space=rule[1],
    )
    return _difference(SentencePiece(model, added), theirs, added) or (model, added)


def _unreadable(one: Mapping[str, Any], described: Mapping[str, Any]) -> str | None:
    """Why the driver cannot look for an added token as ``tokenizers`` does; None: it can."""
    text = one["content"]
    if one["single_word"]:
        return f"{text!r} has single_word true, which depends on the version of Unicode"
    if one["normalized"] and described.get("normalizer") is not None:
        return f"{text!r} has normalized true, and the file has a normalizer"
    if SPACE in text:
        return f"{text!r} has {SPACE!r} in it, which decoding makes a space"
    if _BYTE.fullmatch(text):
        return f"{text!r} has the form of a byte piece, which decoding makes a byte"
    return None


def _is_in_model(one: Mapping[str, Any], pieces: SentencePiece) -> bool:
    """Whether a control piece is that token, with no flag."""
    flags = ("lstrip", "rstrip", "normalized")
    is_same = pieces.piece(one["id"]) == one["content"] and pieces.is_control(one["id"])
    return is_same and one["special"] and not any(one[flag] for flag in flags)


def _added(one: Mapping[str, Any]) -> AddedToken:
    flags = {name: bool(one[name]) for name in ("special", "lstrip", "rstrip", "normalized")}
    return AddedToken(token=int(one["id"]), text=one["content"], **flags)


def _difference(ours: Codec, theirs: Codec, added: AddedTokens) -> str | None:
    """Describe the first text that is encoded or decoded differently; None: no text."""
    if len(ours) != len(theirs):
        return f"it has {len(theirs)} tokens, and the model with the added tokens {len(ours)}"
    for text, allow_special in _texts(ours, added):
        found, expected = (
            each.encode(text, allow_special=allow_special) for each in (ours, theirs)
        )
        if found != expected:
            return f"{text!r} is {_shown(expected)}, and {_shown(found)} in SentencePiece"
        own, wanted = (each.decode(expected) for each in (ours, theirs))
        if own != wanted:
            return f"{_shown(expected)} is {wanted!r}, and {own!r} in SentencePiece"
    return None


def _texts(codec: Codec, added: AddedTokens) -> Iterator[tuple[str, bool]]:
    """Texts to compare, and whether special tokens are read in them."""
    texts = [around.format(one.text, one.text) for one in added.tokens for around in _AROUND]
    for text in (*PROBE_TEXTS, *texts):
        yield text, False
        yield text, True
    yield from ((codec.label(token), False) for token in range(len(codec)))


def _shown(tokens: list[int], most: int = 8) -> str:
    more = f" and {len(tokens) - most} more" if len(tokens) > most else ""
    return f"{tokens[:most]}{more}"
