"""Tokens that were added to a published vocabulary, and the tokenizer that has them.

A fine-tune for chats adds tokens such as ``<|im_start|>`` beside ``tokenizer.model``, which does
not have them. transformers then takes ``tokenizer.json``, or the model and the files that name the
tokens; so does the driver, with the kind ``tokenizers``.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import tokenizers

from ...runtime.contract import TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError
from ...runtime.manifest import SENTENCEPIECE, TOKENIZERS, Vocabulary
from ...runtime.tokenizers.hugging_face import HuggingFace, parse_tokenizer_json
from ...runtime.tokenizers.sentencepiece import SPACE, SentencePiece
from ..config import MistralConfig
from ..formats.tokenizer_files import PublishedTokenizer, has_llama_class
from .json_parts import starts_with, to_bytes
from .published_added_tokens import Added, agreed, read_added
from .special_tokens import start_token
from .tokenizer_json import NotExpressible, TokenizerJson

_SPACES = "onnxruntime-genai 0.18 does not read its rule for spaces (Metaspace)"
_AGAIN = "save the tokenizer again with transformers"


def with_added_tokens(tokenizer: PublishedTokenizer, config: MistralConfig) -> PublishedTokenizer:
    """A published tokenizer whose vocabulary has all added tokens that the model scores.

    A SentencePiece model that lacks some is replaced by the ``tokenizer.json`` beside it, or by
    one made from the model and the tokens. A ``tokenizer.json`` that lacks some gets them.

    Raises:
        CheckpointError: two files disagree on the id, text or flags of a token that is used; or
            the tokens cannot be added to the vocabulary.

    Source: transformers 5.23, ``PreTrainedTokenizerBase._from_pretrained`` and
        ``AutoTokenizer.from_pretrained``, which read the same files.
    """
    listed = [one for one in read_added(tokenizer) if one.token < config.vocab_size]
    if tokenizer.kind != SENTENCEPIECE:
        return _completed(tokenizer, agreed(listed))
    pieces = SentencePiece(tokenizer.model)
    missing = agreed(one for one in listed if pieces.piece(one.token) != one.text)
    if not missing:
        return tokenizer
    published = tokenizer.companions.get(TOKENIZER_JSON_FILE)
    if published is None:
        return _made(tokenizer, pieces, missing, config.architecture)
    tokenizer = dataclasses.replace(
        tokenizer, path=published.path, kind=TOKENIZERS, model=published.read_bytes()
    )
    return _completed(tokenizer, missing)


def added_ids(tokenizer: PublishedTokenizer) -> set[int]:
    """Ids of all added tokens, which a model may not score, such as a token to pad with."""
    return {one.token for one in read_added(tokenizer)}


def _completed(tokenizer: PublishedTokenizer, found: list[Added]) -> PublishedTokenizer:
    """A ``tokenizer.json`` with the tokens that the settings beside it add."""
    try:
        own = parse_tokenizer_json(tokenizer.model)
    except ValueError:
        return tokenizer  # the error is raised where it is opened
    has = {token.content for token in own.get_added_tokens_decoder().values()}
    missing = [one for one in found if one.text not in has]
    if not missing:
        return tokenizer
    vocabulary = own.get_vocab(with_added_tokens=True)
    _refuse_other_ids(missing, vocabulary, of=tokenizer)
    for one in missing:
        _add(own, one, tokenizer)
    return dataclasses.replace(
        tokenizer,
        model=to_bytes(own),
        made_from=f"{tokenizer.path.name} and {missing[0].path.name}",
    )


def _made(
    tokenizer: PublishedTokenizer, pieces: SentencePiece, missing: list[Added], architecture: str
) -> PublishedTokenizer:
    """The model and the added tokens as one ``tokenizer.json``."""
    vocabulary = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
    try:
        whole = TokenizerJson(tokenizer.model, vocabulary, reads_control=True).tokenizer()
    except NotExpressible as why:
        raise CheckpointError(
            f"{tokenizer.path}: {missing[0].text!r} cannot be added to it, since {why}; save the "
            "tokenizer with transformers, which writes a tokenizer.json, and export again"
        ) from why
    # An added token takes the id that the vocabulary has for its text, so that gaps can stay.
    described = json.loads(whole.to_str())
    _refuse_other_ids(missing, described["model"]["vocab"], of=tokenizer)
    described["model"]["vocab"] |= {one.text: one.token for one in missing}
    is_llama = architecture == "LlamaForCausalLM" and has_llama_class(tokenizer.settings)
    is_legacy = is_llama and tokenizer.settings.get("legacy") is True
    _space(described, "always" if is_legacy else "first")
    made = parse_tokenizer_json(json.dumps(described).encode())
    for one in missing:
        _add(made, one, tokenizer)
    ends = {"bos_token": pieces.start_token, "eos_token": pieces.end_token}
    own = {name: pieces.piece(token) for name, token in ends.items() if token is not None}
    tokenizer = dataclasses.replace(tokenizer, settings={**own, **tokenizer.settings})
    start, adds_start = start_token(tokenizer, HuggingFace(to_bytes(made)))
    text = made.id_to_token(start) if adds_start and start is not None else None
    if start is not None and text is not None:
        made.post_processor = starts_with(text, start)
    return dataclasses.replace(
        tokenizer,
        kind=TOKENIZERS,
        model=to_bytes(made),
        settings={"add_bos_token": adds_start, **tokenizer.settings},
        adds_bos=adds_start,
        made_from=f"{TOKENIZER_FILE} and {missing[0].path.name}; {_SPACES}",
    )


def _space(described: dict[str, Any], scheme: str) -> None:
    """Put a space in front of the first stretch of a text, or of each, as transformers does.

    Source: transformers 5.23, ``LlamaTokenizer.__init__``.
    """
    rules = described["normalizer"]["normalizers"]
    kept = [rule for rule in rules if rule["type"] != "Prepend"]
    if len(kept) < len(rules):
        described["normalizer"]["normalizers"] = kept
        spaces = {"replacement": SPACE, "prepend_scheme": scheme, "split": False}
        described["pre_tokenizer"] = {"type": "Metaspace", **spaces}


def _refuse_other_ids(
    added: list[Added], vocabulary: dict[str, int], *, of: PublishedTokenizer
) -> None:
    """Refuse added tokens that take another token's id, or that have another id there.

    Raises:
        CheckpointError: naming the first.
    """
    texts = {token: text for text, token in vocabulary.items()}
    for one in added:
        text, token = texts.get(one.token, one.text), vocabulary.get(one.text, one.token)
        if (text, token) != (one.text, one.token):
            there = f"{text!r}" if text != one.text else f"{one.text!r} as {token}"
            raise CheckpointError(
                f"{one.path}: added token {one.text!r} has id {one.token}, and {of.path.name} has "
                f"{there}, expected one id for each token; {_AGAIN}, or copy both files from the "
                "same checkpoint"
            )


def _add(made: tokenizers.Tokenizer, one: Added, of: PublishedTokenizer) -> None:
    """Add a token; an id that the vocabulary does not have must be the next."""
    flags = one.flags or {"special": True}
    token = tokenizers.AddedToken(
        one.text,
        lstrip=flags.get("lstrip", False),
        rstrip=flags.get("rstrip", False),
        single_word=flags.get("single_word", False),
        normalized=False,
    )
    add = made.add_special_tokens if flags["special"] else made.add_tokens
    add([token])
    if (own := made.token_to_id(one.text)) != one.token:
        raise CheckpointError(
            f"{one.path}: added token {one.text!r} has id {one.token}, and {of.path.name} and the "
            f"tokens before it make it {own}, expected ids without gaps; {_AGAIN}"
        )
