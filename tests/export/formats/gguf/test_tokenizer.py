"""Is a GGUF tokenizer's metadata of another kind than the format's refused, naming file and key?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.gguf import parts
from tramontane.export.formats.gguf.file import GgufFile, read_gguf
from tramontane.export.formats.gguf.tokenizer import rebuild_tokenizer
from tramontane.runtime.errors import CheckpointError

from .test_byte_level_tokenizer import metadata

Write = Callable[..., Path]
KEYS = (
    "model",
    "tokens",
    "token_type",
    "bos_token_id",
    "eos_token_id",
    "unknown_token_id",
    "padding_token_id",
    "add_bos_token",
)
OF_KIND = {
    "llama": (*KEYS, "scores", "remove_extra_whitespaces", "add_space_prefix"),
    "gpt2": (*KEYS, "pre", "merges"),
}


@pytest.fixture
def files(tiny_checkpoint: Write, as_gguf: Write) -> dict[str, GgufFile]:
    """A file of each kind of tokenizer."""
    characters = [*pre_tokenizers.ByteLevel.alphabet(), "ab"]
    vocabulary = {text: number for number, text in enumerate(characters)}
    found = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    found.add_special_tokens([AddedToken("<s>", normalized=False)])
    described = metadata(found, "default", bos_token_id=257)
    return {
        "llama": read_gguf(as_gguf(tiny_checkpoint(), name="llama.gguf")),
        "gpt2": read_gguf(as_gguf(tiny_checkpoint(), name="gpt2.gguf", metadata=described)),
    }


def changed(file: GgufFile, key: str, value: Any) -> GgufFile:
    return dataclasses.replace(file, metadata={**file.metadata, key: value})


def test_files_are_read_as_they_are(files: dict[str, GgufFile]) -> None:
    for file in files.values():
        assert rebuild_tokenizer(file).path == file.path


FLAGS = ("add_bos_token", "remove_extra_whitespaces", "add_space_prefix")


@pytest.mark.parametrize("value", ["false", 1.5, -1, [1.5], [["a"]], [True], True], ids=repr)
def test_value_of_another_kind_is_refused_with_file_and_key(
    files: dict[str, GgufFile], value: Any
) -> None:
    for kind, file in files.items():
        for key in (key for key in OF_KIND[kind] if not (key in FLAGS and value is True)):
            with pytest.raises(CheckpointError) as refusal:
                rebuild_tokenizer(changed(file, f"tokenizer.ggml.{key}", value))
            text = str(refusal.value)
            assert text.startswith(f"{file.path}: "), text
            assert key in text, text
            assert "expected" in text, text


@pytest.mark.parametrize("key", ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"])
def test_chat_template_that_is_no_text_is_refused(files: dict[str, GgufFile], key: str) -> None:
    for kind, file in files.items():
        message = rf"{kind}\.gguf: {key} is \[1\]; expected a text; convert it again"
        with pytest.raises(CheckpointError, match=message):
            rebuild_tokenizer(changed(file, key, [1]))


@pytest.mark.parametrize("value", ["three", [3], 1.5, -2, True], ids=repr)
def test_count_of_parts_of_another_kind_is_refused(
    tiny_checkpoint: Write, as_gguf: Write, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    path = as_gguf(tiny_checkpoint(), name="m.gguf")
    file = changed(read_gguf(path), "split.count", value)
    monkeypatch.setattr(parts, "read_gguf", lambda _: file)
    with pytest.raises(CheckpointError, match=r"m\.gguf: split\.count is .*expected .*; download"):
        Checkpoint.open(path)
