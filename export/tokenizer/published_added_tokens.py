"""Added tokens as a tokenizer's files list them, and whether the files agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError, ConfigError
from ...runtime.untrusted.fields import shown
from ..formats.held_files import HeldFile
from ..formats.metadata_fields import read_json_object
from ..formats.tokenizer_files import ADDED_FILE, SETTINGS_FILE, PublishedTokenizer

_FLAGS = ("special", "lstrip", "rstrip", "single_word")


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
        flags = {flag: bool(fields.get(flag)) for flag in (*_FLAGS, "normalized")}
    return Added(text=text, token=token, path=file.path, flags=flags)


# The first that names a token is the one that messages compare the others with.
_FILES = {TOKENIZER_JSON_FILE: _of_json, SETTINGS_FILE: _of_settings, ADDED_FILE: _of_list}
