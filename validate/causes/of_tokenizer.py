"""Why a tokenizer differs: the part of a file that is not what the checkpoint gives."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...export.formats.checkpoint import Checkpoint
from ...export.tokenizer.tokenizer import read_vocabulary
from ...export.tokenizer.write_tokenizer import write_tokenizer
from ...runtime.contract import MANIFEST_FILE, TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ...runtime.errors import ContractError
from ...runtime.manifest import Manifest
from ...runtime.sizes import counted
from ...runtime.untrusted.json_text import parse_object
from ..tokenizer.check_tokenizer import TEMPLATES, check_tokenizer
from ..verdict import Check
from .rank_causes import Found

_ADDED = "added_tokens"


def cause_of_tokenizer(
    failed: Check, artifact: Path, manifest: Manifest, checkpoint: Checkpoint
) -> Found | None:
    """Write the tokenizer's files anew from the checkpoint, and find the part that differs.

    Each part of ``tokenizer.json`` that differs is replaced in turn; the cause is the one whose
    replacement makes all strings and tokens alike.

    Returns:
        The cause and the evidence; None where the files are those of the checkpoint.
    """
    if failed.name == TEMPLATES:
        return failed.failures[0], "chat templates are compared byte for byte"
    vocabulary = read_vocabulary(checkpoint)
    with tempfile.TemporaryDirectory() as made:
        with contextlib.redirect_stderr(io.StringIO()):  # the export's lines are no news here
            write_tokenizer(checkpoint, Path(made), vocabulary)
        good = {path.name: path.read_bytes() for path in Path(made).iterdir() if path.is_file()}
    own, expected = (dataclasses.asdict(one) for one in (manifest.vocabulary, vocabulary))
    for name, value in expected.items():
        if own[name] != value:
            what = _other_value(name, own[name], value)
            return f"{MANIFEST_FILE}: {what}", "the checkpoint's tokenizer files say so"
    file = failed.name.partition(",")[0]
    found = (artifact / file).read_bytes() if (artifact / file).is_file() else None
    if found is None or file not in good or found == good[file]:
        return None
    if file == TOKENIZER_FILE:
        return f"{file} is another model than the checkpoint's", "its bytes differ"
    return _part(found, good[file], artifact, manifest, checkpoint)


def _other_value(name: str, own: Any, expected: Any) -> str:
    """What differs in a field of the manifest's vocabulary; of added tokens the first."""
    if name == _ADDED:
        lists = (
            {_ADDED: [{**one, "content": one["text"]} for one in value["tokens"]]}
            for value in (own, expected)
        )
        if first := next(_other_tokens(*lists), None):
            return f"vocabulary.{name}: {first}"
    return f"vocabulary.{name} is {own!r}, expected {expected!r}"


def _part(
    found: bytes, expected: bytes, artifact: Path, manifest: Manifest, checkpoint: Checkpoint
) -> Found | None:
    """The part of a ``tokenizer.json`` whose replacement makes all alike."""
    try:
        own, wanted = (parse_object(one, what=TOKENIZER_JSON_FILE) for one in (found, expected))
    except ContractError:
        return f"{TOKENIZER_JSON_FILE} is no JSON object", "the checkpoint's is"
    names = [name for name in wanted if own.get(name) != wanted[name]]
    for parts in (*([name] for name in names), names):
        repaired = {**own, **{name: wanted[name] for name in parts}}
        if parts and _is_right(repaired, artifact, manifest, checkpoint):
            shown = " and ".join(parts)
            evidence = f"with the checkpoint's {shown}, all strings and tokens are alike"
            return f"{TOKENIZER_JSON_FILE}: {_difference(own, wanted, parts)}", evidence
    return None


def _is_right(
    content: Mapping[str, Any], artifact: Path, manifest: Manifest, checkpoint: Checkpoint
) -> bool:
    """Whether an artifact with this ``tokenizer.json`` passes."""
    with tempfile.TemporaryDirectory() as folder:
        for path in artifact.iterdir():
            if path.is_file():
                (Path(folder) / path.name).write_bytes(path.read_bytes())
        (Path(folder) / TOKENIZER_JSON_FILE).write_text(json.dumps(content), encoding="utf-8")
        try:
            found = check_tokenizer(Path(folder), manifest.vocabulary, checkpoint)
        except (ContractError, ValueError):  # parts of two files need not fit together
            return False
    return not any(check.failures for check in found.checks if check.name != TEMPLATES)


def _difference(own: Mapping[str, Any], wanted: Mapping[str, Any], parts: list[str]) -> str:
    """What differs, in words: the first added token, or the names of the parts."""
    if _ADDED in parts and (first := next(_other_tokens(own, wanted), None)):
        return first
    named = (_with_types(name, own.get(name), wanted[name]) for name in parts)
    return f"{' and '.join(named)} {'is' if len(parts) == 1 else 'are'} not the checkpoint's"


def _with_types(name: str, own: Any, wanted: Any) -> str:
    """A part's name, and its type where that differs."""
    types = [one.get("type") if isinstance(one, dict) else None for one in (own, wanted)]
    if types[0] == types[1]:
        return name
    return f"{name} ({types[0] or 'none'}, expected {types[1] or 'none'})"


def _is_named(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("content"), str)


def _other_tokens(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Added tokens that are missing, or have another id or other flags."""
    listed = own.get(_ADDED)
    named = filter(_is_named, listed if isinstance(listed, list) else ())
    found = {one["content"]: one for one in named}
    for one in wanted.get(_ADDED) or ():
        other = found.get(one["content"])
        if other is None:
            yield f"added token {one['content']!r} is missing"
        elif other != one:
            fields = [name for name in one if other.get(name) != one[name]]
            shown = ", ".join(f"{n} {other.get(n)}, expected {one[n]}" for n in fields)
            yield f"added token {one['content']!r} has {shown}"
    if len(found) > len(wanted.get(_ADDED) or ()):
        yield f"{counted(len(found), 'added token')}, expected {len(wanted.get(_ADDED) or ())}"
