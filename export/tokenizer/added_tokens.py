"""Tokens that were added to a SentencePiece model, and the tokenizer that has them.

A fine-tune for chats adds tokens such as ``<|im_start|>`` beside ``tokenizer.model``, which does
not have them. transformers then takes ``tokenizer.json``, or the model and the files that name the
tokens; so does the driver, with the kind ``tokenizers``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from ...runtime.contract import TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError, ConfigError
from ...runtime.manifest import SENTENCEPIECE, TOKENIZERS, Vocabulary
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.sentencepiece import SPACE, SentencePiece
from ..config import MistralConfig
from ..formats.held_files import HeldFile
from ..formats.metadata_fields import read_json_object, shown
from ..formats.tokenizer_files import (
    ADDED_FILE,
    SETTINGS_FILE,
    PublishedTokenizer,
    has_llama_class,
)
from .json_parts import starts_with, to_bytes
from .special_tokens import start_token
from .tokenizer_json import NotExpressible, TokenizerJson

_SPACES = "onnxruntime-genai 0.18 does not read its rule for spaces (Metaspace)"
_FLAGS = ("special", "lstrip", "rstrip", "single_word")


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """One added token, as one file publishes it."""

    text: str
    token: int
    path: Path  # of the file
    flags: Mapping[str, bool] | None  # as Hugging Face names them; None: the file has none


def with_added_tokens(tokenizer: PublishedTokenizer, config: MistralConfig) -> PublishedTokenizer:
    """A published tokenizer whose vocabulary has all added tokens that the model scores.

    A SentencePiece model that lacks some is replaced by the ``tokenizer.json`` beside it, or by
    one made from the model and the tokens. A ``tokenizer.json`` that lacks some gets them.

    Raises:
        CheckpointError: two files disagree on a token's id, text or flags; or the tokens cannot be
            added to the model.

    Source: transformers 5.23, ``PreTrainedTokenizerBase._from_pretrained`` and
        ``AutoTokenizer.from_pretrained``, which read the same files.
    """
    found = [one for one in _read(tokenizer) if one.token < config.vocab_size]
    if not found:
        return tokenizer
    published = tokenizer.companions.get(TOKENIZER_JSON_FILE)
    if tokenizer.kind == SENTENCEPIECE:
        pieces = SentencePiece(tokenizer.model)
        missing = [one for one in found if pieces.piece(one.token) != one.text]
        if not missing:
            return tokenizer
        if published is None:
            return _made(tokenizer, pieces, missing, config.architecture)
        tokenizer = dataclasses.replace(
            tokenizer, path=published.path, kind=TOKENIZERS, model=published.read_bytes()
        )
    return _completed(tokenizer, found)


def added_ids(tokenizer: PublishedTokenizer) -> set[int]:
    """Ids of all added tokens, which a model may not score, such as a token to pad with."""
    return {one.token for one in _read(tokenizer)}


def _read(tokenizer: PublishedTokenizer) -> list[Added]:
    """Added tokens by id, of all files that name any.

    Raises:
        CheckpointError: a file is not as its format says, or two disagree.
    """
    by_id: dict[int, Added] = {}
    by_text: dict[str, Added] = {}
    for name, read in _FILES.items():
        if name not in tokenizer.companions:
            continue
        file = tokenizer.companions[name]
        try:
            for one in read(file):
                _refuse_other(by_id.setdefault(one.token, one), one)
                _refuse_other(by_text.setdefault(one.text, one), one)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{file.path}: its added tokens cannot be read ({error!r}), expected texts and "
                "token ids; copy the file again from the model that it belongs to"
            ) from error
    return [by_id[token] for token in sorted(by_id)]


def _refuse_other(first: Added, second: Added) -> None:
    if (first.text, first.token) != (second.text, second.token):
        raise CheckpointError(
            f"{second.path}: added token {second.text!r} has id {second.token}, and "
            f"{first.path.name} has {first.text!r} as {first.token}; expected the same tokens in "
            "both, so correct one, or save the tokenizer again with transformers"
        )
    if first.flags is None or second.flags is None:
        return
    for flag in _FLAGS:
        own, other = second.flags[flag], first.flags[flag]
        if own != other:
            raise CheckpointError(
                f"{second.path}: added token {second.text!r} has {flag} {str(own).lower()}, and "
                f"{first.path.name} has {str(other).lower()}; expected the same in both, so "
                "correct one, or save the tokenizer again with transformers"
            )


def _of_json(file: HeldFile) -> Iterator[Added]:
    try:
        described = read_json_object(file)
    except ConfigError:
        return  # it is made anew, or the error is raised where it is opened
    for one in described.get("added_tokens") or ():
        yield _added(file, one["content"], int(one["id"]), one)


def _of_settings(file: HeldFile) -> Iterator[Added]:
    added = read_json_object(file).get("added_tokens_decoder") or {}
    for token, one in added.items():
        yield _added(file, one["content"], int(token), one)


def _of_list(file: HeldFile) -> Iterator[Added]:
    for text, token in read_json_object(file).items():
        if type(token) is not int:
            raise ValueError(f"{text!r} is {shown(token)}")
        yield _added(file, text, token, None)


def _added(file: HeldFile, text: str, token: int, fields: Mapping[str, Any] | None) -> Added:
    flags = None if fields is None else {flag: bool(fields.get(flag)) for flag in _FLAGS}
    return Added(text=str(text), token=token, path=file.path, flags=flags)


# The first that names a token is the one that messages compare the others with.
_FILES = {TOKENIZER_JSON_FILE: _of_json, SETTINGS_FILE: _of_settings, ADDED_FILE: _of_list}


def _completed(tokenizer: PublishedTokenizer, found: list[Added]) -> PublishedTokenizer:
    """A ``tokenizer.json`` with the tokens that the settings beside it add."""
    try:
        own = parse_tokenizer_json(tokenizer.model)
    except ValueError:
        return tokenizer  # the error is raised where it is opened
    missing = [one for one in found if own.token_to_id(one.text) is None]
    if not missing:
        return tokenizer
    for one in missing:
        _add(own, one, tokenizer.path)
    return dataclasses.replace(
        tokenizer,
        model=to_bytes(own),
        made_from=f"{tokenizer.path.name} and {missing[0].path.name}",
    )


def _made(
    tokenizer: PublishedTokenizer, pieces: SentencePiece, missing: list[Added], architecture: str
) -> PublishedTokenizer:
    """The model and the added tokens as one ``tokenizer.json``."""
    start, adds_start = start_token(tokenizer, pieces)
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
    described["model"]["vocab"] |= {one.text: one.token for one in missing}
    is_llama = architecture == "LlamaForCausalLM" and has_llama_class(tokenizer.settings)
    is_legacy = is_llama and tokenizer.settings.get("legacy") is True
    _space(described, "always" if is_legacy else "first")
    made = parse_tokenizer_json(json.dumps(described).encode())
    for one in missing:
        _add(made, one, tokenizer.path)
    settings = {"add_bos_token": adds_start, **tokenizer.settings}
    if start is not None:
        text = str(made.id_to_token(start))
        settings = {"bos_token": text, **settings}
        if adds_start:
            made.post_processor = starts_with(text, start)
    if (end := pieces.end_token) is not None:
        settings = {"eos_token": pieces.piece(end), **settings}
    return dataclasses.replace(
        tokenizer,
        kind=TOKENIZERS,
        model=to_bytes(made),
        settings=settings,
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


def _add(made: tokenizers.Tokenizer, one: Added, model: Path) -> None:
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
            f"{one.path}: added token {one.text!r} has id {one.token}, and {model.name} and the "
            f"tokens before it make it {own}, expected ids without gaps; save the tokenizer again "
            "with transformers"
        )
