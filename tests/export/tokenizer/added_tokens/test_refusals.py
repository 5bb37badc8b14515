"""Are added tokens that disagree, or cannot be added, refused with the file and the token?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.runtime.errors import CheckpointError

from .fine_tune import (
    END,
    FLAGS,
    START,
    edited,
    without_json,
)


def test_files_that_disagree_are_refused_with_the_first_string(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({START: 2049, END: 2048}))
    with pytest.raises(CheckpointError, match=r"added_tokens\.json: added token '<\|im_"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


@pytest.mark.parametrize("flag", ["special", "lstrip", "rstrip", "single_word"])
def test_flags_that_disagree_are_refused(folder: Path, flag: str) -> None:
    other = {"content": START, **dict.fromkeys(FLAGS, False), "special": True}
    other[flag] = not other[flag]
    edited(
        folder / "tokenizer_config.json",
        lambda own: own.update(added_tokens_decoder={"2048": other}),
    )
    with pytest.raises(CheckpointError, match=re.escape(f"'{START}' has {flag} ")):
        CheckpointTokenizer.read(Checkpoint.open(folder))


def test_added_tokens_of_another_form_are_refused(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({START: "many"}))
    with pytest.raises(CheckpointError, match="its added tokens cannot be read"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


def test_ids_with_gaps_cannot_be_added_to_a_tokenizer_json(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"more": 2055}))
    with pytest.raises(CheckpointError, match="expected ids without gaps"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


@pytest.mark.parametrize("has_json", [True, False])
@pytest.mark.parametrize(
    ("text", "token", "there"),
    [
        (START, 300, "tokenizer\\.{} has '.+', expected one id"),
        ("<s>", 2055, "tokenizer\\.{} has '<s>' as 1, expected one id"),
    ],
)
def test_an_id_or_text_of_another_token_is_refused(
    folder: Path, has_json: bool, text: str, token: int, there: str
) -> None:
    if has_json:
        (folder / "tokenizer.model").unlink()
        edited(folder / "tokenizer.json", lambda own: own.update(added_tokens=[]))
    else:
        (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({text: token}))
    found = there.format("json" if has_json else "model")
    with pytest.raises(
        CheckpointError, match=f"{text.replace('|', '.')}' has id {token}, .*{found}"
    ):
        CheckpointTokenizer.read(Checkpoint.open(folder))


@pytest.mark.parametrize("token", [-1, "many", None, True])
def test_ids_that_are_none_are_refused(folder: Path, token: Any) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({START: token}))
    with pytest.raises(CheckpointError, match="its added tokens cannot be read"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


def test_an_unknown_start_token_is_refused_where_prompts_begin_with_it(folder: Path) -> None:
    without_json(folder, bos_token="<none>", add_bos_token=False)
    found = CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary
    assert (found.bos_token_id, found.add_bos_token) == (None, False)
    edited(folder / "tokenizer_config.json", lambda own: own.update(add_bos_token=True))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: bos_token is '<none>'"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


@pytest.mark.parametrize("value", [1, {"text": "x"}, [], ""])
def test_a_named_token_without_a_text_is_refused(folder: Path, value: Any) -> None:
    edited(
        folder / "tokenizer_config.json",
        lambda own: own.update(extra_special_tokens=[value]),
    )
    with pytest.raises(
        CheckpointError,
        match=r"tokenizer_config\.json: extra_special_tokens has .*, expected a tok",
    ):
        CheckpointTokenizer.read(Checkpoint.open(folder))
