"""The ``tokenizer.json`` of a folder: as published, corrected, or made from another file.

A new format that becomes ``tokenizer.json`` is a function and an entry in ``CONVERTERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.contract import TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ..files.held_files import HeldFile, HeldFiles
from .byte_level import tekken, tiktoken_ranks
from .byte_level.mistral_split_regex import correct_split_regex
from .json_parts import to_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonTokenizer:
    """A tokenizer.json, and where it comes from."""

    content: bytes
    made_from: str | None = None  # None: as published
    # What tokenizer_config.json would say, where the format says it itself.
    settings: dict[str, Any] = field(default_factory=dict)
    uncorrected: bytes | None = None  # as published, where the content is corrected


def json_file(folder: Path) -> Path | None:
    """The file that a folder's ``tokenizer.json`` is read or made from; None: no such file."""
    names = (TOKENIZER_JSON_FILE, *CONVERTERS)
    return next((path for name in names if (path := folder / name).is_file()), None)


def read_json(folder: Path, held: HeldFiles) -> JsonTokenizer:
    """Read a folder's ``tokenizer.json``, or make it.

    Mistral's ``tekken.json`` and Llama 3's ``tokenizer.model`` may lie beside it; both then say
    the same. Of Mistral's own files, those with a wrong split regex are corrected.

    Raises:
        CheckpointError: no file, an unreadable one, or two that disagree.
    """
    path = json_file(folder)
    if path is None:
        raise CheckpointError(f"{folder}: holds no {TOKENIZER_JSON_FILE}; download it again")
    file = held.hold(path)
    return CONVERTERS[path.name](file) if path.name in CONVERTERS else _published(file, held)


def _published(file: HeldFile, held: HeldFiles) -> JsonTokenizer:
    content, folder = file.read_bytes(), file.path.parent
    try:
        found = parse_tokenizer_json(content)
    except ValueError:
        return JsonTokenizer(content=content)  # the error is raised where it is opened
    model = held.find(folder / TOKENIZER_FILE)
    if model is not None and tiktoken_ranks.is_tiktoken(model.read_bytes()):
        tiktoken_ranks.refuse_other(model.read_bytes(), found, model.path)
    other = held.find(folder / tekken.FILE)
    published = None if other is None else tekken.read_tekken(other)
    if correct_split_regex(found, path=file.path, tekken=published):
        return JsonTokenizer(
            content=to_bytes(found),
            made_from=f"{file.name}, its split regex corrected",
            uncorrected=content,
        )
    return JsonTokenizer(content=content)


def _from_tekken(file: HeldFile) -> JsonTokenizer:
    found = tekken.read_tekken(file)
    named = {
        "bos_token": tekken.START,
        "eos_token": tekken.END,
        "unk_token": tekken.UNKNOWN,
        "pad_token": tekken.PADDING,
    }
    settings = {name: text for name, text in named.items() if text in found.special}
    return JsonTokenizer(
        content=to_bytes(found.tokenizer()),
        made_from=file.name,
        settings={"add_bos_token": True, **settings},
    )


# By name, in the order in which they are looked for, where there is no tokenizer.json.
CONVERTERS: dict[str, Callable[[HeldFile], JsonTokenizer]] = {tekken.FILE: _from_tekken}
