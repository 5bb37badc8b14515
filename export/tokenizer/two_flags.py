"""Refuses two files that disagree on whether an added token is looked for in normalized text."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from tokenizers import Tokenizer

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.sentencepiece import SentencePiece
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE
from ..formats.checkpoint import Checkpoint
from ..published_tokenizer.listed_added_tokens import NORMALIZED, Added, read_added
from ..published_tokenizer.probe_texts import around, first_other

_Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
_FORMS: tuple[_Form, ...] = get_args(_Form)


def refuse_two_flags(checkpoint: Checkpoint) -> None:
    """Refuse a ``tokenizer.json`` whose flags ``normalized`` give other tokens than the settings'.

    transformers takes the flags of ``added_tokens_decoder``, and other programs those of
    ``tokenizer.json``. Many published files disagree on a flag that changes nothing, since the
    file has no normalizer, or none that changes the token: these are accepted.

    Raises:
        CheckpointError: naming the files, the token and the first text on which they differ.

    Source: transformers 5.23, ``TokenizersBackend.__init__``.
    """
    tokenizer = checkpoint.read_tokenizer()
    published = tokenizer.files_beside.get(TOKENIZER_JSON_FILE)
    if published is None:
        return
    size = checkpoint.config.vocab_size
    pairs = _disagreeing(one for one in read_added(tokenizer) if one.token < size)
    try:
        if tokenizer.kind == SENTENCEPIECE and pairs:  # it has its control pieces itself
            pieces = SentencePiece(tokenizer.model)
            known = {pieces.piece(token) for token in range(len(pieces))}
            pairs = {text: pair for text, pair in pairs.items() if text not in known}
        if not pairs:
            return
        own = parse_tokenizer_json(published.read_bytes())
        if own.normalizer is None:
            return
        other = _with_flags(own, {text: pair[1].flags for text, pair in pairs.items()})
    except ValueError:
        return  # the error is raised where it is opened
    for text, (first, second) in pairs.items():
        for probe in around(_forms(text, own)):
            ids, theirs = (
                each.encode(probe, add_special_tokens=False).ids for each in (own, other)
            )
            if ids != theirs:
                place, found, expected = first_other(ids, theirs)
                raise CheckpointError(
                    f"{second.path}: added token {text!r} has normalized {_flag(second)}, and "
                    f"{first.path.name} has {_flag(first)}: token {place} of {probe!r} is "
                    f"{expected}, and {found}; expected the same in both, so correct one, or "
                    "save the tokenizer again with transformers"
                )


def _disagreeing(listed: Iterator[Added]) -> dict[str, tuple[Added, Added]]:
    """Tokens on whose flag two files disagree, by text; that of ``tokenizer.json`` is first."""
    first: dict[str, Added] = {}
    found: dict[str, tuple[Added, Added]] = {}
    for one in listed:
        own = first.setdefault(one.text, one)
        if own.flags and one.flags and own.flags[NORMALIZED] != one.flags[NORMALIZED]:
            found[one.text] = own, one
    return found


def _with_flags(own: Tokenizer, flags: Mapping[str, Mapping[str, bool] | None]) -> Tokenizer:
    """The same tokenizer with the flag that other files give to these tokens."""
    described = json.loads(own.to_str())
    for one in described["added_tokens"]:
        if (other := flags.get(one["content"])) is not None:
            one[NORMALIZED] = other[NORMALIZED]
    return parse_tokenizer_json(json.dumps(described).encode())


def _forms(text: str, tokenizer: Tokenizer) -> list[str]:
    """Spellings that a normalizer may make alike."""
    assert tokenizer.normalizer is not None
    changed = tokenizer.normalizer.normalize_str(text)
    cased = (text.lower(), text.upper(), text.title())
    unicode_forms = (unicodedata.normalize(form, text) for form in _FORMS)
    return list(dict.fromkeys((text, changed, *cased, *unicode_forms)))


def _flag(one: Added) -> str:
    return str(bool(one.flags and one.flags[NORMALIZED])).lower()
