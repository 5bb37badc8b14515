"""Chat templates of a checkpoint and of an artifact, by the file that holds each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...export.files.metadata_fields import read_json_object
from ...export.published_tokenizer.tokenizer_files import (
    SETTINGS_FILE,
    TEMPLATE_FILE,
    PublishedTokenizer,
)
from ...runtime.sizes import counted

_KEY = "chat_template"
_FOLDER = "additional_chat_templates"
_SHOWN = 24  # bytes from the first difference on


def published_templates(tokenizer: PublishedTokenizer) -> dict[str, bytes]:
    """Chat templates that a checkpoint publishes: bytes by place."""
    files = {
        name: file.read_bytes()
        for name, file in tokenizer.companions.items()
        if name == TEMPLATE_FILE or name.startswith(f"{_FOLDER}/")
    }
    return {**files, **_in_settings(tokenizer.settings)}


def written_templates(artifact: Path) -> dict[str, bytes]:
    """Chat templates that an artifact has: bytes by place."""
    paths = [artifact / TEMPLATE_FILE, *sorted((artifact / _FOLDER).glob("*.jinja"))]
    files = {
        path.relative_to(artifact).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file()
    }
    settings = artifact / SETTINGS_FILE
    return {**files, **_in_settings(read_json_object(settings) if settings.is_file() else {})}


def _in_settings(settings: Mapping[str, Any]) -> dict[str, bytes]:
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


def first_other(found: bytes | None, expected: bytes | None) -> str | None:
    """How a template differs from the published one; None where it does not.

    >>> first_other(b"{{ a }}", b"{{ b }}")
    "byte 3: found b'a }}', expected b'b }}'"
    """
    if found == expected:
        return None
    if found is None:
        return f"found no template, expected one of {counted(len(expected or b''), 'byte')}"
    if expected is None:
        return f"found {counted(len(found), 'byte')}, expected no template"
    ends = min(len(found), len(expected))
    at = next((at for at in range(ends) if found[at] != expected[at]), ends)
    here = slice(at, at + _SHOWN)
    return f"byte {at}: found {found[here]!r}, expected {expected[here]!r}"
