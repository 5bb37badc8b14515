"""The tokenizer beside an adapter, which takes the place of the base model's."""

from __future__ import annotations

import dataclasses
from functools import cache

from ....runtime.contract import TOKENIZER_FILE
from ....runtime.errors import CheckpointError
from ...published_tokenizer.tokenizer_files import (
    ADDED_FILE,
    DECIDING,
    MAP_FILE,
    SETTINGS_FILE,
    TEMPLATE_FILE,
    deciding_files,
    read_tokenizer,
    tokenizer_file,
)
from ..published import Published
from .adapter import Adapter

# In the order in which messages name them.
_FILES = (ADDED_FILE, SETTINGS_FILE, TEMPLATE_FILE, MAP_FILE)


def with_tokenizer(
    published: Published, adapter: Adapter, *, is_larger: bool
) -> tuple[Published, list[str]]:
    """The adapter's tokenizer in the place of the base model's, where it has one that is read.

    Returns:
        The model, and a note on files that are not read.

    Raises:
        CheckpointError: they are not read, and the adapter's vocabulary is larger than the base's.
    """
    own = tokenizer_file(adapter.folder)
    if own is None:
        unread = [name for name in _FILES if (adapter.folder / name).is_file()]
        if not unread:
            return published, []
        found = (
            f"{adapter.folder}: holds {unread[0]} and neither tokenizer.json nor {TOKENIZER_FILE}"
        )
        if is_larger:
            raise CheckpointError(
                f"{found}, expected the tokenizer with the tokens that the adapter adds; put one "
                "of these beside it"
            )
        return published, [f"{found}; the base model's tokenizer is used"]
    files = deciding_files(adapter.folder)
    for path in files:
        published.held.hold(path)
    kept = (path for path in published.files if path.name not in DECIDING)
    changed = dataclasses.replace(
        published,
        files=(*kept, *files),
        read_tokenizer=cache(lambda: read_tokenizer(adapter.folder, published.held)),
    )
    return changed, []
