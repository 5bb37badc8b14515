"""The revision of a repository that a checkpoint was downloaded at."""

from __future__ import annotations

import re
from pathlib import Path

from ...runtime.errors import ConfigError
from ...runtime.untrusted.files import is_file, read_file
from ..formats.checkpoint import Checkpoint

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOTES = Path(".cache", "huggingface", "download")
_MOST_BYTES = 4096  # of a note, which has three lines
_TICK_SECONDS = 1  # by which a file may be newer than its note


def revision_of(checkpoint: Checkpoint) -> str | None:
    """The commit of all files of a checkpoint, where the hub's client wrote it down.

    In a hub's cache it is the name of a folder, ``models--ORG--NAME/snapshots/COMMIT``. Where
    ``hf download --local-dir`` wrote a folder, each file has a note of three lines: commit, etag
    and time. A file that was changed since then has no revision.

    Source: huggingface_hub, "Understand caching", and ``read_download_metadata`` of
    ``_local_folder.py``.
    """
    parts = checkpoint.path.absolute().parts
    for cached, folder, name in zip(parts, parts[1:], parts[2:], strict=False):
        if cached.startswith("models--") and folder == "snapshots" and _COMMIT.fullmatch(name):
            return name
    found = {_noted(path) for path in checkpoint.published.files}
    return found.pop() if len(found) == 1 else None


def _noted(path: Path) -> str | None:
    note = path.parent / _NOTES / f"{path.name}.metadata"
    if not is_file(note):
        return None
    try:
        lines = read_file(note, most=_MOST_BYTES, error=ConfigError).decode().splitlines()
        commit, _, written = lines
        is_as_downloaded = path.stat().st_mtime - _TICK_SECONDS <= float(written)
    except (ConfigError, OSError, ValueError):  # no note of the hub's client
        return None
    return commit if is_as_downloaded and _COMMIT.fullmatch(commit) else None
