"""Special tokens that a tokenizer's settings name, with or without an id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError, ConfigError
from ...runtime.untrusted.fields import shown
from ..files.metadata_fields import read_json_object
from .spelling import ENDS, text_of
from .tokenizer_files import DECODER, MAP_FILE, SETTINGS_FILE, PublishedTokenizer

_ROLES = (*ENDS, "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # in order
_EXTRA, _OLD_EXTRA = "extra_special_tokens", "additional_special_tokens"
_SUFFIX = "_token"  # of a role that a model has beside those


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedToken:
    """A special token, as settings name it."""

    role: str  # key of the settings
    text: str
    flags: Mapping[str, Any]
    path: Path  # of the file that names it


def named_tokens(tokenizer: PublishedTokenizer) -> list[NamedToken]:
    """Special tokens that settings name, in the order in which transformers adds them.

    ``special_tokens_map.json`` is read where ``tokenizer_config.json`` lists no
    ``added_tokens_decoder``; where both name a role, ``special_tokens_map.json`` decides.

    Raises:
        CheckpointError: a token has no text, or the map is no JSON object.

    Source: transformers 5.23, ``PreTrainedTokenizerBase._from_pretrained`` and ``__init__``.
    """
    path = tokenizer.path.with_name(SETTINGS_FILE)
    settings = {key: (value, path) for key, value in tokenizer.settings.items()}
    if settings.get(_OLD_EXTRA, ((), path))[0] and not settings.get(_EXTRA, ((), path))[0]:
        settings[_EXTRA] = settings.pop(_OLD_EXTRA)
    if DECODER not in settings and (file := tokenizer.files_beside.get(MAP_FILE)) is not None:
        try:
            found = read_json_object(file)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        own, more = settings.get(_EXTRA, ((), path))[0], found.get(_EXTRA)
        settings |= {key: (value, file.path) for key, value in found.items()}
        if isinstance(own, list) and isinstance(more, list):
            settings[_EXTRA] = ([*own, *more], file.path)
    extra = settings.get(_EXTRA) or settings.get(_OLD_EXTRA) or ((), path)
    return [*_roles(settings), *_extra(*extra)]


def _roles(settings: Mapping[str, tuple[Any, Path]]) -> Iterator[NamedToken]:
    for role in _ROLES:
        value, path = settings.get(role, (None, Path()))
        if value is not None:
            yield _named(role, value, path)
    for role, (value, path) in settings.items():
        if role.endswith(_SUFFIX) and role not in _ROLES and text_of(value):
            yield _named(role, value, path)


def _extra(value: Any, path: Path) -> Iterator[NamedToken]:
    listed = value.values() if isinstance(value, Mapping) else value or ()
    for one in listed:
        yield _named(_EXTRA, one, path)


def _named(role: str, value: Any, path: Path) -> NamedToken:
    text = text_of(value)
    if not text:
        raise CheckpointError(
            f"{path}: {role} has {shown(value)}, expected a token's text, or an object with its "
            "content; correct it, or remove it"
        )
    flags = value if isinstance(value, Mapping) else {}
    return NamedToken(role=role, text=text, flags=flags, path=path)
