"""Chat templates that a checkpoint publishes, by the place that holds each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tokenizer_files import SETTINGS_FILE, TEMPLATE_FILE, PublishedTokenizer

FOLDER = "additional_chat_templates"
_KEY = "chat_template"


def published_templates(tokenizer: PublishedTokenizer) -> dict[str, bytes]:
    """Chat templates that a checkpoint publishes: bytes by place."""
    files = {
        name: file.read_bytes()
        for name, file in tokenizer.files_beside.items()
        if name == TEMPLATE_FILE or name.startswith(f"{FOLDER}/")
    }
    return {**files, **templates_in_settings(tokenizer.settings)}


def templates_in_settings(settings: Mapping[str, Any]) -> dict[str, bytes]:
    """Templates of ``tokenizer_config.json``: one text, or several by name."""
    found = settings.get(_KEY)
    if isinstance(found, str):
        return {f"{SETTINGS_FILE}, {_KEY}": found.encode()}
    if not isinstance(found, list):
        return {}
    return {
        f"{SETTINGS_FILE}, {_KEY} {one.get('name')!r}": str(one.get("template")).encode()
        for one in found
        if isinstance(one, Mapping)
    }
