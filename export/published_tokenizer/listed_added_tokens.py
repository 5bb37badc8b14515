"""Added tokens as a tokenizer's files list them, and whether the files agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError, ConfigError
from ...runtime.untrusted.fields import shown
from ..files.held_files import HeldFile
from ..files.metadata_fields import read_json_object
from .chat_templates import published_templates
from .named_tokens import named_tokens
from .spelling import ENDS
from .tokenizer_files import (
    ADDED_FILE,
    DECODER,
    MAP_FILE,
    SETTINGS_FILE,
    PublishedTokenizer,
)

FLAGS = ("special", "lstrip", "rstrip", "single_word")
NORMALIZED = "normalized"  # the flag on which files may disagree


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
        if name not in tokenizer.files_beside:
            continue
        file = tokenizer.files_beside[name]
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


def special_without_flags(tokenizer: PublishedTokenizer) -> set[int]:
    """Ids of the added tokens that ``with_flags`` makes special.

    Raises:
        CheckpointError: as ``read_added`` and ``with_flags``.
    """
    listed = read_added(tokenizer)
    flagged = {one.token for one in listed if one.flags is not None}
    completed = with_flags(listed, tokenizer)
    special = {one.token for one in completed if one.flags and one.flags["special"]}
    return special - flagged


def named_special(
    tokenizer: PublishedTokenizer, known: Mapping[str, int], listed: Iterable[Added]
) -> list[Added]:
    """Special tokens that the settings name and no file lists; transformers adds them.

    A token of the vocabulary keeps its id, and others have the next ones. Start and end tokens
    that have no id are left out here: the export stops where they are needed.

    Args:
        tokenizer: its settings are read.
        known: ids of the tokens of its vocabulary by their texts.
        listed: added tokens of all files.

    Raises:
        CheckpointError: a token has no text.

    Source: transformers 5.23, ``TokenizersBackend.__init__``.
    """
    if tokenizer.files_beside.keys().isdisjoint((SETTINGS_FILE, MAP_FILE)):
        return []  # a GGUF file's settings name tokens of its vocabulary, which has their kinds
    ids = {one.text: one.token for one in listed}
    done = set(ids)
    ids = {**known, **ids}
    highest = max(ids.values(), default=-1)
    found: list[Added] = []
    for one in named_tokens(tokenizer):
        if one.text in done:
            continue
        done.add(one.text)
        is_known = one.text in ids
        if not is_known:
            highest += 1
        token = ids.setdefault(one.text, highest)
        if is_known or one.role not in ENDS:
            flags = {flag: bool(one.flags.get(flag)) for flag in (*FLAGS, NORMALIZED)}
            flags["special"] = True
            found.append(Added(text=one.text, token=token, path=one.path, flags=flags))
    return found


def with_flags(found: Iterable[Added], tokenizer: PublishedTokenizer) -> list[Added]:
    """The same tokens, where those that ``added_tokens.json`` alone lists have flags too.

    They are special if settings name them, as in transformers, or if a chat template writes them,
    so that text of users is not read as them.

    Raises:
        CheckpointError: a named token has no text.

    Source: transformers 5.23, ``PreTrainedTokenizerBase._from_pretrained``.
    """
    found = list(found)
    if all(one.flags is not None for one in found):
        return found
    named = {one.text for one in named_tokens(tokenizer)}
    templates = b"".join(published_templates(tokenizer).values())

    def flagged(one: Added) -> Added:
        special = one.text in named or one.text.encode() in templates
        flags = {**dict.fromkeys(FLAGS, False), "special": special, NORMALIZED: not special}
        return one if one.flags is not None else dataclasses.replace(one, flags=flags)

    return [flagged(one) for one in found]


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
    added = read_json_object(file).get(DECODER) or {}
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
        flags = {flag: bool(fields.get(flag)) for flag in (*FLAGS, NORMALIZED)}
    return Added(text=text, token=token, path=file.path, flags=flags)


# The first that names a token is the one that messages compare the others with.
_FILES = {TOKENIZER_JSON_FILE: _of_json, SETTINGS_FILE: _of_settings, ADDED_FILE: _of_list}
