"""Name, licence and licence files that a checkpoint was published with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...console.progress import say
from ...runtime.contract import CARD_FILE
from ...runtime.errors import ConfigError, printable
from ...runtime.sizes import format_bytes
from ...runtime.untrusted.fields import shown
from ...runtime.untrusted.files import in_utf8
from ..files.links import is_own
from ..formats.checkpoint import Checkpoint
from ..formats.published import Layout
from .card_metadata import (
    LONGEST_LINE,
    MOST_JSON_BYTES,
    as_line,
    is_small_json,
    parse_metadata,
    read_card,
)
from .revision import revision_of

# What a model card's metadata says that holds for an artifact too.
_LINES = ("license", "license_link", "license_name")
_VALUES = ("language", "widget")
_EXPECTED = {
    **dict.fromkeys(_LINES, f"one line of at most {LONGEST_LINE} characters"),
    **dict.fromkeys(_VALUES, f"JSON of at most {format_bytes(MOST_JSON_BYTES)}"),
}
# A hub's cache keeps ORG/NAME in a folder of this name, above the snapshots.
_CACHED = re.compile(r"models--(?P<organization>[\w.-]+?)--(?P<name>[\w.-]+)")
# Texts that a licence asks to be handed on. None has a name that an artifact gives a file.
_LICENSES = re.compile(
    r"(licen[cs]e|notice|copying|copyright|patents?|third[ _-]party[ _-](notice|licen[cs]e)|"
    r"((acceptable|prohibited)[ _-])?use[ _-]policy|terms[ _-]of[ _-](use|service))[\w .()+-]*",
    re.IGNORECASE,
)
_MOST_BYTES = 1 << 20  # of one; a licence is a text
# Of a card's metadata: what stands between its marks, and a line that holds a plain value.
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", re.DOTALL)
_SIMPLE_LINE = re.compile(
    r"(?P<name>license|license_name|license_link):[ \t]+(?P<value>[\w.:/+-]+|\"[\w.:/ +-]+\"|"
    r"'[\w.:/ +-]+')[ \t]*"
)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def read_upstream_metadata(
    checkpoint: Checkpoint, *, base_model: str | None = None
) -> dict[str, Any]:
    """What an artifact's model card carries over from the checkpoint.

    Args:
        checkpoint: its model card, or a GGUF file's metadata, is read.
        base_model: the repository that it came from, ``ORGANIZATION/NAME``; None: known only
            where the checkpoint lies in a hub's cache.

    Returns:
        ``name``; where known ``base_model``, ``revision``, ``license`` and what belongs to it,
        ``language``; and ``license_files``, names of the texts that ``copy_licenses`` carries.

    Raises:
        ConfigError: the base model is not named as a repository is.

    Source: Hugging Face Hub, model cards; ggml, docs/gguf.md, ``general.license``.
    """
    if base_model is not None and not _REPOSITORY.fullmatch(base_model):
        raise ConfigError(f"--base-model {base_model}: expected ORGANIZATION/NAME, as on a hub")
    path = checkpoint.path.absolute()
    cached = next(filter(None, map(_CACHED.fullmatch, path.parts)), None)
    revision = revision_of(checkpoint)
    name = path.stem if checkpoint.layout is Layout.GGUF else path.resolve().name
    if cached is not None:
        name = cached["name"]
        base_model = base_model or f"{cached['organization']}/{name}"
    origin = {"name": printable(in_utf8(name)), **_published(checkpoint)}
    if revision is not None:
        origin["revision"] = revision
    if files := [path.name for path in license_files(checkpoint)]:
        origin["license_files"] = files
    return origin if base_model is None else {**origin, "base_model": base_model}


def license_files(checkpoint: Checkpoint) -> list[Path]:
    """Licence and notice texts in a checkpoint's folder; none of a single GGUF file.

    They are carried byte for byte, in whatever encoding they are: a licence asks for its text.
    A hub's cache holds links to files of its own, which are followed; a link to elsewhere is not.
    """
    folder = checkpoint.path
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        if not _LICENSES.fullmatch(path.name) or not path.is_file():
            continue
        if not is_own(path):
            say(f"{path}: is a link to a file outside the checkpoint, and is left out")
        elif path.stat().st_size > _MOST_BYTES:
            say(f"{path}: is larger than {_MOST_BYTES} bytes, no licence's text, and is left out")
        else:
            _content_of(checkpoint, path.name)
            found.append(path)
    return found


def _content_of(checkpoint: Checkpoint, name: str) -> bytes:
    """A file beside the weights, held from now on, so that what is found is what is copied."""
    file = checkpoint.beside(name)
    assert file is not None, "it was found in the folder"
    return file.read_bytes(most=_MOST_BYTES)


def copy_licenses(checkpoint: Checkpoint, folder: Path, names: list[str]) -> None:
    """Write licence and notice texts into an artifact's folder, as they were when it began.

    Raises:
        CheckpointError: one cannot be read any more.
    """
    for name in names:
        (folder / name).write_bytes(_content_of(checkpoint, name))


def _published(checkpoint: Checkpoint) -> dict[str, Any]:
    if checkpoint.layout is Layout.GGUF:
        license_ = checkpoint.published.metadata.get("general.license")
        return _carried({} if license_ is None else {"license": license_}, of=checkpoint.path)
    card = checkpoint.path / CARD_FILE
    if not card.is_file():
        return {}
    content = read_card(card)
    try:
        metadata = parse_metadata(content)
    except ValueError as error:
        return _salvaged(card, content, error)
    return _carried(metadata, of=card)


def _carried(metadata: Mapping[str, Any], *, of: Path) -> dict[str, Any]:
    """What an artifact takes over; a value that it cannot print is left out, and that is said."""
    carried: dict[str, Any] = {}
    for name in (*_LINES, *_VALUES):
        if name not in metadata:
            continue
        found = metadata[name]
        if name in _LINES and (line := as_line(found)) is not None:
            carried[name] = line
        elif name in _VALUES and is_small_json(found):
            carried[name] = found
        else:
            say(f"{of}: {name} is {shown(found)}, expected {_EXPECTED[name]}; it is left out")
    return carried


def _salvaged(card: Path, content: bytes, error: Exception) -> dict[str, Any]:
    """The licence of a card whose metadata is no YAML, where a line of its own still says it."""
    head = _FRONT_MATTER.match(content.decode("utf-8", errors="replace"))
    lines = head[1].splitlines() if head is not None else []
    found = {
        match["name"]: match["value"].strip("\"'")
        for match in map(_SIMPLE_LINE.fullmatch, lines)
        if match is not None and as_line(match["value"]) is not None
    }
    why = f"{card}: its metadata cannot be read as YAML ({_one_line(error)})"
    if "license" in found:
        named = ", ".join(f"{name} {value}" for name, value in found.items())
        say(
            f"{why}; {named} was read from its lines, and what else it says is lost, such as the "
            "language: correct the file and export again to keep it"
        )
    else:
        say(
            f"{why}, and no line names a licence; the artifact's card has no licence and no "
            "language. Before you publish the artifact, look up the model's licence, then correct "
            "the file and export again, or write the licence into the artifact's README.md"
        )
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
