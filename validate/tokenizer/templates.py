"""Chat templates of an artifact, by the file that holds each, and how two templates differ."""

from __future__ import annotations

from pathlib import Path

from ...export.files.metadata_fields import read_json_object
from ...export.published_tokenizer.chat_templates import FOLDER, templates_in_settings
from ...export.published_tokenizer.tokenizer_files import SETTINGS_FILE, TEMPLATE_FILE
from ...runtime.sizes import counted

_SHOWN = 24  # bytes from the first difference on


def written_templates(artifact: Path) -> dict[str, bytes]:
    """Chat templates that an artifact has: bytes by place."""
    paths = [artifact / TEMPLATE_FILE, *sorted((artifact / FOLDER).glob("*.jinja"))]
    files = {
        path.relative_to(artifact).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file()
    }
    settings = artifact / SETTINGS_FILE
    return {
        **files,
        **templates_in_settings(read_json_object(settings) if settings.is_file() else {}),
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
