"""A manifest whose fields were changed, with a hash that is right, ends in one typed line."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tramontane.runtime import manifest as manifests
from tramontane.runtime.errors import ContractError
from tramontane.runtime.manifest import read_manifest, verify_files

from .test_manifest import artifact

_ABSENT = object()
_OTHERS: list[object] = [
    *(_ABSENT, None, True, 0, -1, 1.5, 1e30, 10**12, 2**63, 10**30, float("nan")),
    *("x", "", "\x1b[31m\n", "y" * 10**4, [], {}, [1], ["a"], {"a": 1}, [[[]]]),
]


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field, at any depth."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def changed(content: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    """The same content with another value at a place, or none."""
    whole = copy.deepcopy(content)
    inner: Any = whole
    for key in path[:-1]:
        inner = inner[key]
    if value is _ABSENT:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return whole


def write(folder: Path, content: dict[str, Any]) -> None:
    """A manifest whose own hash is right."""
    (folder / "manifest.json").write_bytes(manifests._text(content).encode())


def contents(folder: Path) -> dict[str, Any]:
    artifact(folder)
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    del content["manifest_sha256"]
    return content


def test_whatever_a_field_holds_the_error_is_typed_and_short(tmp_path: Path) -> None:
    content = contents(tmp_path)
    refusals = []
    for path in places(content):
        for value in _OTHERS:
            write(tmp_path, changed(content, path, value))
            try:
                verify_files(tmp_path, read_manifest(tmp_path))
            except ContractError as error:
                refusals.append(str(error))
    assert len(refusals) > 500
    assert [each for each in refusals if not each.isprintable() or len(each) > 800] == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("files",), [1], r"files is \[1\], expected an object"),
        (("files",), {"a": 1}, r"files\.a is 1, expected an object"),
        (("vocabulary", "bos_token_id"), "x", r"vocabulary\.bos_token_id is 'x', expected"),
        (("vocabulary", "bos_token_id"), 1e30, r"vocabulary\.bos_token_id is 1e\+30, expected"),
        (("vocabulary", "bos_token_id"), 64, r"vocabulary\.bos_token_id: 64, expected 0 to 63"),
        (("memory", "other_quants"), [], r"memory\.other_quants is \[\], expected an object"),
        (("origin",), "a word", r"origin is 'a word', expected an object"),
        (("parity",), [], r"parity is \[\], expected an object"),
        (("geometry", "num_layers"), 10**12, r"geometry\.num_layers is 1000000000000, expected 1"),
        (("geometry", "num_key_value_heads"), 0, r"num_key_value_heads is 0, expected 1 to"),
        (("geometry", "window"), 0, r"geometry\.windows is 0, expected 1 to"),
        (("geometry", "max_positions"), 10**9, r"geometry\.max_positions is 1000000000, expected"),
        (("geometry", "rows"), 10**39, r"geometry\.layers\[0\]\.rows is 10000"),
        (("geometry", "window"), 10**9, r"1000000000"),
        (("schema_version",), "\n" * 999, r"schema version '\\n"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    tmp_path: Path, path: tuple[str, ...], value: object, said: str
) -> None:
    write(tmp_path, changed(contents(tmp_path), path, value))
    with pytest.raises(ContractError, match=rf"manifest\.json: .*{said}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../other", "onnx/../../x", "a\\b", "/proc/self/pagemap"]
)
def test_names_of_files_outside_the_artifact_are_refused(tmp_path: Path, name: str) -> None:
    described = {"bytes": 1, "sha256": "0" * 64}
    write(tmp_path, changed(contents(tmp_path), ("files",), {name: described}))
    with pytest.raises(ContractError, match="files names .*below the artifact's folder; do not"):
        read_manifest(tmp_path)


def test_a_manifest_with_other_line_ends_is_not_the_text_written(tmp_path: Path) -> None:
    artifact(tmp_path)
    path = tmp_path / "manifest.json"
    text = path.read_bytes()
    for ends in (b"\r\n", b"\r"):
        path.write_bytes(text.replace(b"\n", ends))
        with pytest.raises(ContractError, match="changed since it was written"):
            read_manifest(tmp_path)


def test_a_file_without_end_is_read_up_to_the_promised_size(tmp_path: Path) -> None:
    manifest = artifact(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(1 << 42)  # hours to hash
    with pytest.raises(ContractError, match=r"4398046511104 bytes .*the manifest promises"):
        verify_files(tmp_path, manifest)


def test_a_manifest_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ContractError, match="holds no manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_folder_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ContractError, match="name an artifact|no such folder"):
        read_manifest(tmp_path / name)
