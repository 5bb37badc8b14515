"""Tests of two files that disagree on the flag ``normalized`` of an added token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, normalizers
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import ExportOptions
from tramontane.export.planning.preflight import preflight
from tramontane.export.tokenizer.two_flags import refuse_two_flags
from tramontane.runtime.errors import CheckpointError

from ...support.tiny_tokenizers import llama_3, non_special, save

Write = Callable[..., Path]
TEXT = "Foo<|x|>"


@pytest.fixture
def make(tiny_checkpoint: Write) -> Callable[..., Path]:
    def made(normalizer: Any, *, in_json: bool, in_settings: bool, text: str = TEXT) -> Path:
        """A checkpoint with one added token, whose flag both files have."""
        folder = tiny_checkpoint(vocab_size=640)
        tokenizer: Tokenizer = llama_3()
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        tokenizer.add_tokens([non_special(text, normalized=in_json)])
        save(tokenizer, folder)
        path = folder / "tokenizer_config.json"
        flags = dict.fromkeys(("special", "lstrip", "rstrip", "single_word"), False)
        listed = {"content": text, **flags, "normalized": in_settings}
        added = {str(tokenizer.token_to_id(text)): listed}
        settings = {**json.loads(path.read_bytes()), "added_tokens_decoder": added}
        path.write_text(json.dumps(settings))
        return folder

    return made


@pytest.mark.slow
@pytest.mark.parametrize("in_json", [True, False])
def test_flags_that_give_other_tokens_are_refused_with_the_first_text(
    make: Callable[..., Path], tmp_path: Path, in_json: bool
) -> None:
    folder = make(normalizers.Lowercase(), in_json=in_json, in_settings=not in_json)
    with pytest.raises(CheckpointError) as refused:
        preflight(folder, tmp_path / "out", ExportOptions(quant="fp32", target="ort"))
    said = str(refused.value)
    theirs, own = ("false", "true") if in_json else ("true", "false")
    assert said.startswith(
        f"{folder / 'tokenizer_config.json'}: added token '{TEXT}' has normalized {theirs}, and "
        f"tokenizer.json has {own}: token 0 of 'foo<|x|>' is "
    )
    assert said.endswith("so correct one, or save the tokenizer again with transformers")
    # The numbers are those of transformers, which reads the settings, and of tokenizers.
    place = said.split(" is ")[1].split(";", maxsplit=1)[0].split(", and ")
    read = transformers.AutoTokenizer.from_pretrained(folder)
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = (
        read("foo<|x|>", add_special_tokens=False)["input_ids"],
        file.encode("foo<|x|>", add_special_tokens=False).ids,
    )
    assert [str(one[0]) for one in ids] == place


@pytest.mark.parametrize(
    ("normalizer", "text"),
    [(None, TEXT), (normalizers.NFC(), TEXT), (normalizers.Lowercase(), "<|->")],
)
def test_flags_that_change_no_token_are_accepted(
    make: Callable[..., Path], tmp_path: Path, normalizer: Any, text: str
) -> None:
    folder = make(normalizer, in_json=True, in_settings=False, text=text)
    preflight(folder, tmp_path / "out", ExportOptions(quant="fp32", target="ort"))


def test_flags_that_agree_and_files_that_cannot_be_read_are_left(
    make: Callable[..., Path],
) -> None:
    folder = make(normalizers.Lowercase(), in_json=True, in_settings=True)
    refuse_two_flags(Checkpoint.open(folder))
    folder = make(normalizers.Lowercase(), in_json=True, in_settings=False)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refuse_two_flags(Checkpoint.open(folder))
    (folder / "tokenizer.json").unlink()
