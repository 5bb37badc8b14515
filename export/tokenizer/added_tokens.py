"""Tokens that were added to a published vocabulary, and the tokenizer that has them.

A fine-tune for chats adds tokens such as ``<|im_start|>`` beside ``tokenizer.model``, which does
not have them. transformers then takes ``tokenizer.json``, or the model and the files that name the
tokens. The artifact gets that ``tokenizer.json``; the driver reads the model and the tokens, see
``read_natively.py``.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import tokenizers

from ...runtime.contract import TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError, ConfigError
from ...runtime.tokenizers.added_tokens import ALWAYS, FIRST, AddedTokens
from ...runtime.tokenizers.hugging_face import HuggingFace, parse_tokenizer_json
from ...runtime.tokenizers.sentencepiece import SPACE, SentencePiece
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE, TOKENIZERS, Vocabulary
from ..config import MistralConfig
from ..files.metadata_fields import read_json_object
from ..published_tokenizer.json_parts import starts_with, to_bytes
from ..published_tokenizer.listed_added_tokens import (
    FLAGS,
    NORMALIZED,
    Added,
    agreed,
    named_special,
    read_added,
    with_flags,
)
from ..published_tokenizer.tokenizer_files import PublishedTokenizer, has_llama_class
from .read_natively import SCHEMES, beside_model, read_natively, space_rule
from .special_tokens import start_token
from .tokenizer_json import NotExpressible, TokenizerJson

_SPACES = "onnxruntime-genai 0.18 does not read its rule for spaces (Metaspace)"
_AGAIN = "save the tokenizer again with transformers"


def with_added_tokens(tokenizer: PublishedTokenizer, config: MistralConfig) -> PublishedTokenizer:
    """A published tokenizer whose vocabulary has all added tokens that the model scores.

    A ``tokenizer.json`` that lacks some gets them. Beside a SentencePiece model that lacks some,
    the ``tokenizer.json`` decides, or one made from the model and the tokens; where the driver
    cannot read the model and the tokens as that file does, the file takes the model's place. Where
    no such file can be made, the model and the tokens decide.

    Raises:
        CheckpointError: two files disagree on the id, text or flags of a token that is used; or
            the tokens cannot be added to the vocabulary.

    Source: transformers 5.23, ``PreTrainedTokenizerBase._from_pretrained`` and
        ``AutoTokenizer.from_pretrained``, which read the same files.
    """
    if tokenizer.added_tokens is not None:
        return tokenizer
    listed = read_added(tokenizer)
    try:
        known = _ids(tokenizer)
    except ValueError:
        return tokenizer  # the error is raised where it is opened
    listed += named_special(tokenizer, known, listed)
    listed = [one for one in listed if one.token < config.vocab_size]
    if tokenizer.kind != SENTENCEPIECE:
        return _completed(tokenizer, with_flags(agreed(listed), tokenizer), normalizes=True)
    pieces = SentencePiece(tokenizer.model)
    missing = agreed(one for one in listed if pieces.piece(one.token) != one.text)
    missing = with_flags(missing, tokenizer)
    published = tokenizer.files_beside.get(TOKENIZER_JSON_FILE)
    if not missing:
        scheme = _prepend_scheme(tokenizer, config.architecture)
        return dataclasses.replace(tokenizer, added_tokens=AddedTokens(prepend_scheme=scheme))
    if published is None:
        try:
            whole = _made(tokenizer, pieces, missing, config.architecture)
        except NotExpressible as why:
            _refuse_other_ids(missing, known, of=tokenizer)
            scheme = _prepend_scheme(tokenizer, config.architecture)
            return beside_model(tokenizer, missing, scheme=scheme, why_no_json=str(why))
    else:
        alone = dataclasses.replace(
            tokenizer, path=published.path, kind=TOKENIZERS, model=published.read_bytes()
        )
        whole = _completed(alone, missing, normalizes=False)
    as_read = _as_read(whole.model, tokenizer, config.architecture)
    return read_natively(whole, tokenizer, as_read=as_read)


def added_ids(tokenizer: PublishedTokenizer) -> set[int]:
    """Ids of all added tokens, which a model may not score, such as a token to pad with."""
    return {one.token for one in read_added(tokenizer)}


def _completed(
    tokenizer: PublishedTokenizer, found: list[Added], *, normalizes: bool
) -> PublishedTokenizer:
    """A ``tokenizer.json`` with the tokens that the settings beside it add.

    Args:
        tokenizer: of kind ``tokenizers``.
        found: all added tokens.
        normalizes: whether added tokens may be looked for in normalized text.
    """
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
        _add(own, one, tokenizer, normalizes=normalizes)
    return dataclasses.replace(
        tokenizer,
        model=to_bytes(own),
        made_from=f"{tokenizer.path.name} and {missing[0].path.name}",
    )


def _made(
    tokenizer: PublishedTokenizer, pieces: SentencePiece, missing: list[Added], architecture: str
) -> PublishedTokenizer:
    """The model and the added tokens as one ``tokenizer.json``.

    Raises:
        NotExpressible: the format cannot express the model.
        CheckpointError: an added token has another token's id or text.
    """
    vocabulary = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
    whole = TokenizerJson(tokenizer.model, vocabulary, reads_control=True).tokenizer()
    # An added token takes the id that the vocabulary has for its text, so that gaps can stay.
    described = json.loads(whole.to_str())
    _refuse_other_ids(missing, described["model"]["vocab"], of=tokenizer)
    described["model"]["vocab"] |= {one.text: one.token for one in missing}
    _space(described, _prepend_scheme(tokenizer, architecture))
    made = parse_tokenizer_json(json.dumps(described).encode())
    for one in missing:
        _add(made, one, tokenizer, normalizes=False)
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


def _as_read(content: bytes, tokenizer: PublishedTokenizer, architecture: str) -> bytes:
    """A ``tokenizer.json`` as transformers reads it: its class for Llama has its own spaces.

    Source: transformers 5.23, ``LlamaTokenizer.__init__``.
    """
    if not _is_llama(tokenizer, architecture):
        return content
    try:
        described = json.loads(content)
        if space_rule(described) is None:
            return content
    except (ValueError, TypeError, KeyError, AttributeError):
        return content  # the error is raised where it is opened
    puts_space = tokenizer.settings.get("add_prefix_space") is not False
    scheme = _prepend_scheme(tokenizer, architecture) if puts_space else "never"
    spaces = {"replacement": SPACE, "prepend_scheme": scheme, "split": False}
    parts = {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", **spaces}}
    if all(described.get(name) == part for name, part in parts.items()):
        return content
    try:
        return to_bytes(parse_tokenizer_json(json.dumps(described | parts).encode()))
    except ValueError:
        return content  # the error is raised where it is opened


def _is_llama(tokenizer: PublishedTokenizer, architecture: str) -> bool:
    return architecture == "LlamaForCausalLM" and has_llama_class(tokenizer.settings)


def _prepend_scheme(tokenizer: PublishedTokenizer, architecture: str) -> str:
    """Which stretches between control tokens get a space in front.

    transformers' class for Llama goes by the settings, all others by a published
    ``tokenizer.json``.

    Source: transformers 5.23, ``LlamaTokenizer.__init__`` and ``_get_prepend_scheme``.
    """
    if _is_llama(tokenizer, architecture):
        return ALWAYS if tokenizer.settings.get("legacy") is True else FIRST
    published = tokenizer.files_beside.get(TOKENIZER_JSON_FILE)
    try:
        rule = None if published is None else space_rule(read_json_object(published))
    except (ConfigError, TypeError, KeyError, AttributeError):
        rule = None  # the file is made anew
    return FIRST if rule is None or rule[0] not in SCHEMES else rule[0]


def _ids(tokenizer: PublishedTokenizer) -> dict[str, int]:
    """Ids of all tokens of a published file by their texts.

    Raises:
        ValueError: the file is not of its kind.
    """
    if tokenizer.kind != SENTENCEPIECE:
        return parse_tokenizer_json(tokenizer.model).get_vocab(with_added_tokens=True)
    pieces = SentencePiece(tokenizer.model)
    return {pieces.piece(token): token for token in range(len(pieces))}


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


def _add(
    made: tokenizers.Tokenizer, one: Added, of: PublishedTokenizer, *, normalizes: bool
) -> None:
    """Add a token; an id that the vocabulary does not have must be the next."""
    assert one.flags is not None  # ``with_flags`` has set them
    own = {name: one.flags[name] for name in FLAGS if name != "special"}
    own[NORMALIZED] = normalizes and one.flags[NORMALIZED]
    token = tokenizers.AddedToken(one.text, **own)
    add = made.add_special_tokens if one.flags["special"] else made.add_tokens
    add([token])
    if (there := made.token_to_id(one.text)) != one.token:
        raise CheckpointError(
            f"{one.path}: added token {one.text!r} has id {one.token}, and {of.path.name} and the "
            f"tokens before it make it {there}, expected ids without gaps; {_AGAIN}"
        )
