"""Reads the metadata of a model card: YAML without aliases, of bounded size and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ...runtime.errors import ConfigError
from ...runtime.untrusted.fields import shown
from ...runtime.untrusted.files import read_file

_MOST_BYTES = 8 << 20  # of a card; some embed images
_DEEPEST = 20


def read_card(card: Path) -> bytes:
    """The content of a model card.

    Raises:
        ConfigError: it is no regular file, or larger than any card.
    """
    return read_file(card, most=_MOST_BYTES, error=ConfigError, remedy="shorten or remove it")


def parse_metadata(content: bytes) -> dict[str, Any]:
    """What stands between a card's marks; empty where nothing does.

    Raises:
        ValueError: it is no object of YAML in UTF-8, or has an alias: a few of them in each other
            make gigabytes.
    """
    block = REGEX_YAML_BLOCK.search(content.decode("utf-8-sig"))
    if block is None:
        return {}
    try:
        _refuse_aliases(block[2])
        found = yaml.safe_load(block[2])
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict | None):
        raise ValueError(f"{shown(found)}, expected an object")
    return found or {}


def is_plain(value: object) -> bool:
    """Whether a value is one of JSON's: YAML has dates, bytes and sets too."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))


def _refuse_aliases(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {event.start_mark.line + 1}: an alias, expected none")
        if depth > _DEEPEST:
            raise ValueError(f"line {event.start_mark.line + 1}: nested deeper than {_DEEPEST}")
