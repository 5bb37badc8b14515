"""What does an artifact say of itself, and is it still what it says?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.errors import ContractError
from tramontane.runtime.manifest import (
    Manifest,
    describe_file,
    read_manifest,
    verify_files,
    write_manifest,
)
from tramontane.runtime.tokenizers.vocabulary import Vocabulary
from tramontane.runtime.untrusted.files import has_more_than_its_size

from ..support.tiny_manifest import tiny_manifest


def artifact(folder: Path) -> Manifest:
    """Two files and their manifest, written."""
    (folder / MODEL_FILE).parent.mkdir()
    for name in (MODEL_FILE, "tokenizer.model"):
        (folder / name).write_bytes(name.encode() * 9)
    manifest = tiny_manifest(
        vocabulary=Vocabulary(bos_token_id=1, eos_token_ids=(2, 3), add_bos_token=True),
        source={"config.json": "ab"},
        tools={"onnx": "1"},
        tensors=[{"name": "x", "shape": [2], "bits": 32, "why": "a norm, Größe µ"}],
        origin={"name": "tiny", "license": "apache-2.0", "language": ["en", "fr"]},
        files={name: describe_file(folder / name) for name in (MODEL_FILE, "tokenizer.model")},
    )
    write_manifest(folder, manifest)
    return manifest


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = artifact(tmp_path)
    assert read_manifest(tmp_path) == written
    verify_files(tmp_path, written)


def test_one_manifest_has_one_spelling(tmp_path: Path) -> None:
    manifest = artifact(tmp_path)
    text = (tmp_path / "manifest.json").read_bytes()
    write_manifest(tmp_path, read_manifest(tmp_path))
    assert (tmp_path / "manifest.json").read_bytes() == text
    assert manifest == read_manifest(tmp_path)


@pytest.mark.parametrize("name", [MODEL_FILE, "tokenizer.model"])
def test_one_changed_byte_of_a_file_is_noticed(tmp_path: Path, name: str) -> None:
    manifest = artifact(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[5] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ContractError, match=f"{name}: .*the manifest promises"):
        verify_files(tmp_path, manifest)


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    manifest = artifact(tmp_path)
    (tmp_path / MODEL_FILE).unlink()
    with pytest.raises(ContractError, match=r"model\.onnx: missing"):
        verify_files(tmp_path, manifest)


def test_any_changed_byte_of_the_manifest_is_noticed(tmp_path: Path) -> None:
    artifact(tmp_path)
    path = tmp_path / "manifest.json"
    text = path.read_bytes()
    for place in range(len(text)):
        path.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        with pytest.raises(ContractError, match=r"manifest\.json"):
            read_manifest(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    artifact(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "schema_version": 1}))
    with pytest.raises(ContractError, match="schema version 1, expected 4"):
        read_manifest(tmp_path)


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ContractError, match="no such folder; run export first, or name an artifact"
    ):
        read_manifest(tmp_path / "absent")
    with pytest.raises(ContractError, match=r"not an artifact, it holds no manifest\.json"):
        read_manifest(tmp_path)


def test_a_file_with_more_bytes_than_its_size_is_not_taken_for_an_empty_one() -> None:
    endless = Path("/proc/self/pagemap")
    if not endless.exists():
        pytest.skip("this system has no such file")
    assert describe_file(endless, most=0)["bytes"] > 0
    assert has_more_than_its_size(endless)
    assert not has_more_than_its_size(Path(__file__))
