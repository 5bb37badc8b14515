"""Reads the metadata of a model card: YAML without aliases and tags, of bounded size and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ...runtime.errors import ConfigError
from ...runtime.untrusted.fields import shown
from ...runtime.untrusted.files import read_file

_MOST_BYTES = 8 << 20  # of a card; some embed images
_MOST_METADATA = 512 << 10  # characters; PyYAML reads 0.1 million a second of the slowest
_DEEPEST = 20
LONGEST_LINE = 1000  # characters of a licence's name, or of a link to it
MOST_JSON_BYTES = 64 << 10  # of another value that is carried over
_LONGEST_SCALAR = 64 << 10  # characters; the time for 1:1:1:... grows with their square


def read_card(card: Path) -> bytes:
    """The content of a model card.

    Raises:
        ConfigError: it is no regular file, or larger than any card.
    """
    return read_file(card, most=_MOST_BYTES, error=ConfigError, remedy="shorten or remove it")


def parse_metadata(content: bytes) -> dict[str, Any]:
    """What stands between a card's marks; empty where nothing does.

    Raises:
        ValueError: it is no object of YAML in UTF-8; it is too long; it has a tag, which may name
            any type; or an alias: a few of them in each other make gigabytes.
    """
    block = REGEX_YAML_BLOCK.search(content.decode("utf-8-sig"))
    if block is None:
        return {}
    if len(block[2]) > _MOST_METADATA:
        raise ValueError(f"{len(block[2])} characters, expected at most {_MOST_METADATA}")
    try:
        found = yaml.load(block[2], Loader=_PlainLoader)
    except (yaml.YAMLError, ArithmeticError) as error:  # the latter of numbers
        raise ValueError(str(error)) from error
    if not isinstance(found, dict | None):
        raise ValueError(f"{shown(found)}, expected an object")
    return found or {}


def as_line(value: object) -> str | None:
    """A text of one line that is not long, without blanks around it; None: it is none."""
    line = value.strip() if isinstance(value, str) else ""
    return line if line.isprintable() and 0 < len(line) <= LONGEST_LINE else None


def is_small_json(value: object) -> bool:
    """Whether a value can be written as JSON that is not long: YAML has dates and NaN too."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return _has_plain_keys(value) and len(text.encode()) <= MOST_JSON_BYTES
    except (TypeError, ValueError):  # half of a surrogate pair, or a number of many digits, too
        return False


def _has_plain_keys(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _has_plain_keys(each) for key, each in value.items())
    return not isinstance(value, list) or all(map(_has_plain_keys, value))


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses, while it reads, what would make more of a text than stands in it."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As ``SafeLoader``.

        Raises:
            ValueError: an alias, a tag, or a value that is nested too deep or too long.
        """
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line}: an alias, expected none")
        if event.tag is not None:
            raise ValueError(f"line {line}: the tag {shown(event.tag)}, expected none")
        if self._depth > _DEEPEST:
            raise ValueError(f"line {line}: nested deeper than {_DEEPEST}")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_SCALAR:
            raise ValueError(
                f"line {line}: {len(event.value)} characters in one value, expected at most "
                f"{_LONGEST_SCALAR}"
            )
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node
