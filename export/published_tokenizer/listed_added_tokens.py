"""Added tokens as a tokenizer's files list them, and whether the files agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError, ConfigError
from ...runtime.untrusted.fields import shown
from ..files.held_files import HeldFile
from ..files.metadata_fields import read_json_object
from .spelling import text_of
from .tokenizer_files import ADDED_FILE, SETTINGS_FILE, PublishedTokenizer

FLAGS = ("special", "lstrip", "rstrip", "single_word")
UNFLAGGED = {**dict.fromkeys(FLAGS, False), "special": True}  # of a token listed without flags


_ENDS = ("bos_token", "eos_token")
_NAMED = (*_ENDS, "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # in order


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """One added token, as one file publishes it."""

    text: str
    token: int
    path: Path  # of the file
    flags: Mapping[str, bool] | None  # as Hugging Face names them; None: the file has none


def read_added(tokenizer: PublishedTokenizer) -> list[Added]:
    """Added tokens of all files that list any; a token of several files is there several times.

    Raises:
        CheckpointError: a file is not as its format says.
    """
    found: list[Added] = []
    for name, read in _FILES.items():
        if name not in tokenizer.companions:
            continue
        file = tokenizer.companions[name]
        try:
            found += read(file)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{file.path}: its added tokens cannot be read ({error!r}), expected texts and "
                "token ids; copy the file again from the model that it belongs to"
            ) from error
    return found


def named_without_id(tokenizer: PublishedTokenizer, known: Mapping[str, int]) -> list[Added]:
    """Special tokens that the settings name and no file gives an id: transformers appends them.

    Start and end tokens have an id each and are left out here: without them in the vocabulary, the
    export stops where they are needed.

    Args:
        tokenizer: its settings are read.
        known: ids of all other tokens by their texts, added ones included.

    Raises:
        CheckpointError: a token has no text.

    Source: transformers 5.23, ``TokenizersBackend.__init__``.
    """
    settings = tokenizer.settings
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    if isinstance(extra, Mapping):
        extra = extra.values()
    named = [(name, settings[name]) for name in _NAMED if settings.get(name) is not None]
    ids = dict(known)
    found: list[Added] = []
    for name, value in (*named, *(("extra_special_tokens", one) for one in extra)):
        text = text_of(value)
        if not text:
            raise CheckpointError(
                f"{tokenizer.path.with_name(SETTINGS_FILE)}: {name} has {shown(value)}, expected "
                "a token's text, or an object with its content; correct it, or remove it"
            )
        if text in ids:
            continue
        ids[text] = 1 + max(ids.values(), default=-1)
        if name not in _ENDS:
            path = tokenizer.path.with_name(SETTINGS_FILE)
            flags = dict(value) if isinstance(value, Mapping) else {}
            own = {flag: bool(flags.get(flag)) for flag in (*FLAGS, "normalized")}
            found.append(
                Added(text=text, token=ids[text], path=path, flags={**own, "special": True})
            )
    return found


def agreed(found: Iterable[Added]) -> list[Added]:
    """Each token once, by id.

    Raises:
        CheckpointError: two files disagree on a token's id, text or flags.
    """
    by_id: dict[int, Added] = {}
    by_text: dict[str, Added] = {}
    for one in found:
        _refuse_other(by_id.setdefault(one.token, one), one)
        _refuse_other(by_text.setdefault(one.text, one), one)
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
    for flag in FLAGS:
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
        yield _added(file, one["content"], one["id"], one)


def _of_settings(file: HeldFile) -> Iterator[Added]:
    added = read_json_object(file).get("added_tokens_decoder") or {}
    for token, one in added.items():
        yield _added(file, one["content"], int(token), one)


def _of_list(file: HeldFile) -> Iterator[Added]:
    for text, token in read_json_object(file).items():
        yield _added(file, text, token, None)


def _added(file: HeldFile, text: str, token: Any, fields: Mapping[str, Any] | None) -> Added:
    if type(token) is not int or token < 0 or not isinstance(text, str) or not text:
        raise ValueError(f"{shown(text)} has id {shown(token)}")
    flags = None
    if fields is not None:
        flags = {flag: bool(fields.get(flag)) for flag in (*FLAGS, "normalized")}
    return Added(text=text, token=token, path=file.path, flags=flags)


# The first that names a token is the one that messages compare the others with.
_FILES = {TOKENIZER_JSON_FILE: _of_json, SETTINGS_FILE: _of_settings, ADDED_FILE: _of_list}
