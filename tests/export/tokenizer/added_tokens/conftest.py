"""Fixtures: the fine-tune, and a copy of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from .fine_tune import (
    END,
    PLAIN,
    SIZE,
    START,
    TEMPLATE,
)


@pytest.fixture(scope="module")
def fine_tune(
    tiny_checkpoint: Callable[..., Path],
    stdlib_5m: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model fine-tuned for ChatML, as transformers saves it, with its tokenizer.model."""
    folder = shutil.copytree(
        tiny_checkpoint(vocab_size=SIZE), tmp_path_factory.mktemp("chat") / "model"
    )
    source = tmp_path_factory.mktemp("source")
    shutil.copy(stdlib_5m / "tokenizer.model", source)
    (source / "config.json").write_text((folder / "config.json").read_text())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": False}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": [START, END]})
    tokenizer.add_tokens([transformers.AddedToken(PLAIN, normalized=False)])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    assert (folder / "tokenizer.model").is_file()
    assert (folder / "tokenizer.json").is_file()
    return folder


@pytest.fixture
def folder(fine_tune: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return shutil.copytree(fine_tune, tmp_path / "model")
