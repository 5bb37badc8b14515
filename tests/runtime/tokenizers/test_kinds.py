"""The manifest names the kind of tokenizer, and one list says how each kind is opened."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tramontane.runtime import Model, Session
from tramontane.runtime.errors import ContractError
from tramontane.runtime.loading.open_tokenizer import open_tokenizer
from tramontane.runtime.manifest import read_manifest, to_json, write_manifest
from tramontane.runtime.tokenizers.added_tokens import AddedToken, AddedTokens
from tramontane.runtime.tokenizers.kinds import KINDS, Kind


class Words:
    """A kind for tests: a token is a word of a file of words."""

    def __init__(self, content: bytes) -> None:
        self.words = content.decode().split()

    def __len__(self) -> int:
        return len(self.words)

    start_token = end_token = None

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        return [self.words.index(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"{self.words[token]} " for token in tokens)

    def token_bytes(self, token: int) -> bytes:
        return f"{self.words[token]} ".encode()

    def depends_on_next(self, token: int) -> bool:
        return False

    def label(self, token: int) -> str:
        return self.words[token]

    def piece(self, token: int) -> str:
        return self.words[token]

    def find(self, piece: str) -> int | None:
        return self.words.index(piece) if piece in self.words else None


def rewrite(folder: Path, **vocabulary: Any) -> None:
    manifest = read_manifest(folder)
    changed = dataclasses.replace(manifest.vocabulary, **vocabulary)
    write_manifest(folder, dataclasses.replace(manifest, vocabulary=changed))


def write_text(folder: Path, content: dict[str, object]) -> None:
    """Write a manifest of any fields with the hash that every version has written."""
    digest = hashlib.sha256(to_json(content).encode()).hexdigest()
    text = to_json({**content, "manifest_sha256": digest})
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def test_a_new_kind_needs_its_codec_and_an_entry_alone(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "tiny")
    rewrite(folder, kind="words", add_bos_token=False)
    (folder / "words.txt").write_text(" ".join(f"w{i}" for i in range(2048)))
    monkeypatch.setitem(
        KINDS, "words", Kind(file="words.txt", parse=lambda content, _: Words(content))
    )
    session = Session.load(folder, threads=1)
    text = "".join(session.generate("w5 w6", max_new_tokens=9))
    session.reset()
    expected = session.generate([5, 6], max_new_tokens=9).finish()
    assert text == expected.text == "".join(f"w{token} " for token in expected.tokens)


def test_a_manifest_that_names_no_kind_has_sentencepiece(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "tiny")
    expected = open_tokenizer(folder, read_manifest(folder)).encode("def f(x):")
    content = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert content["vocabulary"].pop("kind") == "sentencepiece"
    del content["manifest_sha256"]
    write_text(folder, content)
    assert Model.load(folder, threads=1).tokenizer.encode("def f(x):") == expected


def test_the_manifest_has_the_tokens_that_are_added_to_a_model(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "tiny")
    assert "added_tokens" not in json.loads((folder / "manifest.json").read_text())["vocabulary"]
    token = AddedToken(token=2060, text="<|end|>", special=True, rstrip=True)
    added = AddedTokens(tokens=(token,), prepend_scheme="always", doubles_space=False)
    rewrite(folder, added_tokens=added)
    manifest = read_manifest(folder)
    assert manifest.vocabulary.added_tokens == added
    found = open_tokenizer(folder, manifest).encode("x<|end|> \ny", allow_special=True)
    assert found == [1, *found[1:-2], 2060, found[-1]]
    assert found[-1:] == open_tokenizer(folder, manifest).encode("y", is_first=False)


def assert_refused_by_all(folder: Path, expected: str) -> None:
    for load in (Session.load, Model.load):
        with pytest.raises(ContractError, match=re.escape(expected)):
            load(folder)
    with pytest.raises(ContractError, match=re.escape(expected)):
        open_tokenizer(folder, read_manifest(folder))


def test_an_unknown_kind_is_refused_before_the_graph_is_loaded(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "tiny")
    rewrite(folder, kind="tekken")
    (folder / "onnx/model.onnx").unlink()
    expected = (
        f"{folder}/manifest.json: vocabulary.kind is 'tekken', expected 'sentencepiece' or "
        "'tokenizers', the kinds of tokenizer that this version reads; update tramontane: pip install path/to/tramontane, from a newer checkout"
    )
    assert_refused_by_all(folder, expected)


def test_a_kind_whose_package_is_missing_asks_for_it_before_the_graph_is_loaded(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "tiny")
    rewrite(folder, kind="tokenizers")
    (folder / "onnx/model.onnx").unlink()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    expected = (
        f"{folder}/manifest.json: vocabulary.kind is 'tokenizers', which needs the package "
        "tokenizers, and it is not installed; pip install tokenizers"
    )
    assert_refused_by_all(folder, expected)


def test_missing_or_foreign_model_is_refused_by_name(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "tiny")
    path = folder / "tokenizer.model"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ContractError, match=r"tokenizer\.model: not a sentencepiece model \("):
        open_tokenizer(folder, read_manifest(folder))
    path.unlink()
    with pytest.raises(ContractError, match=r"tokenizer\.model: missing; copy the artifact again"):
        open_tokenizer(folder, read_manifest(folder))


def test_a_start_token_that_is_wanted_and_not_named_is_refused(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "tiny")
    rewrite(folder, bos_token_id=None)
    with pytest.raises(ContractError, match="begin with a start token, but none is named"):
        open_tokenizer(folder, read_manifest(folder))


def test_sentencepiece_is_imported_when_a_tokenizer_is_opened(folder: Path) -> None:
    code = f"""
import sys; sys.path[:] = {sys.path!r}
from tramontane.runtime import Session
session = Session.load({str(folder)!r}, threads=1)
assert len(session.step(5))
assert 'sentencepiece' not in sys.modules
assert session.tokenizer.encode('x')
assert 'sentencepiece' in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
