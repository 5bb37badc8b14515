"""Are tokens that only settings name, or that no file gives flags, those of transformers?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import options_named
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.runtime.errors import CheckpointError
from tramontane.runtime.tokenizers.protocol import Codec
from tramontane.validate.tokenizer.check_tokenizer import check_tokenizer

from ....support.tiny_tokenizers import save, unigram
from .fine_tune import END, FLAGS, PLAIN, START, edited, without_json

MORE, OTHER = "<|more|>", "<|other|>"


def read(folder: Path) -> Codec:
    return CheckpointTokenizer.read(Checkpoint.open(folder)).codec


def assert_same(folder: Path, tokens: Iterable[str]) -> Codec:
    """Each of the tokens, alone and within text, has the ids and the text of transformers."""
    codec, theirs = read(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for token in tokens:
        for text in (token, f"{token}x", f"{token} x", f"{token}{token}", f"{MORE}a {token}b"):
            ids = theirs(text, add_special_tokens=False)["input_ids"]
            assert codec.encode(text, allow_special=True) == ids, text
            assert codec.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
    return codec


def named_in_map(folder: Path, **settings: Any) -> None:
    """Name one token as the one to pad with, and another beside it, in the map alone."""
    own = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**own, **settings}))
    pad = {"content": OTHER, "lstrip": False, "normalized": False, "rstrip": False}
    named = {"pad_token": {**pad, "single_word": False}, "additional_special_tokens": [MORE]}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))


@pytest.mark.situation(
    "special tokens that `special_tokens_map.json` names and no file gives an id",
    package="transformers",
)
@pytest.mark.parametrize("has_model", [False, True])
def test_tokens_that_the_map_names_have_the_next_ids(folder: Path, has_model: bool) -> None:
    named_in_map(folder)
    if not has_model:
        (folder / "tokenizer.model").unlink()
    codec = assert_same(folder, (MORE, OTHER))
    assert codec.find(OTHER) not in codec.encode(f"x{OTHER}")


def test_tokens_that_the_map_names_are_added_to_a_model(folder: Path) -> None:
    named_in_map(folder)
    (folder / "tokenizer.json").unlink()
    codec, theirs = read(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert codec.find(OTHER) == theirs.convert_tokens_to_ids(OTHER) == 2048
    assert codec.find(MORE) == 2049  # transformers 4 has it too, and transformers 5 loses it


def test_many_tokens_that_the_map_names_are_read_at_once(folder: Path) -> None:
    named_in_map(folder)
    (folder / "tokenizer.json").unlink()
    many = {"additional_special_tokens": [f"<|{number}|>" for number in range(60_000)]}
    (folder / "special_tokens_map.json").write_text(json.dumps(many))
    start = time.monotonic()
    assert read(folder).find("<|0|>") == 2048
    assert time.monotonic() - start < 10  # minutes, if the next id is looked for among all


def test_the_map_is_not_read_where_the_settings_list_added_tokens(folder: Path) -> None:
    named_in_map(folder, added_tokens_decoder={"2051": {"content": "more"}})
    assert read(folder).find(MORE) is None
    assert transformers.AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(MORE) in (
        None,
        0,
    )


def test_the_map_decides_the_end_token_where_the_settings_list_no_added_tokens(
    folder: Path,
) -> None:
    named_in_map(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    edited(folder / "config.json", lambda own: own.update(eos_token_id=None))
    edited(folder / "special_tokens_map.json", lambda own: own.update(eos_token=END))
    found = CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary
    assert found.eos_token_ids == (2049,)
    assert transformers.AutoTokenizer.from_pretrained(folder).eos_token_id == 2049


def test_a_role_of_the_models_own_names_a_special_token(folder: Path) -> None:
    edited(folder / "tokenizer_config.json", lambda own: own.update(think_token=MORE))
    assert read(folder).find(MORE) == 2051
    assert_same(folder, (MORE,))


def test_a_token_of_the_vocabulary_that_the_settings_name_is_special(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"]
    text = next(text for text in vocabulary if len(text) > 3 and text.isalpha())
    edited(folder / "tokenizer_config.json", lambda own: own.update(pad_token=text))
    (folder / "tokenizer.model").unlink()
    codec = assert_same(folder, (text,))
    assert codec.decode([vocabulary[text]]) == ""


def test_a_map_that_names_a_token_without_a_text_is_refused(folder: Path) -> None:
    edited(folder / "tokenizer_config.json", lambda own: own.pop("added_tokens_decoder", None))
    (folder / "special_tokens_map.json").write_text('{"additional_special_tokens": [{}]}')
    edited(folder / "tokenizer_config.json", lambda own: own.pop("extra_special_tokens"))
    with pytest.raises(
        CheckpointError, match=r"special_tokens_map\.json: extra_special_tokens has \{\}, exp"
    ):
        read(folder)


@pytest.mark.situation(
    "tokens that `added_tokens.json` alone lists, without flags", package="transformers"
)
def test_tokens_without_flags_are_special_where_settings_or_a_template_name_them(
    folder: Path,
) -> None:
    without_json(folder, tokenizer_class="LlamaTokenizer", pad_token=MORE)
    (folder / "added_tokens.json").write_text(
        json.dumps({START: 2048, END: 2049, PLAIN: 2050, MORE: 2051})
    )
    codec = read(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for token, text in ((2050, PLAIN), (2051, "")):
        assert codec.decode([token]) == theirs.decode([token], skip_special_tokens=True) == text
    assert 2050 in codec.encode(f"x {PLAIN} y")
    assert 2048 not in codec.encode(f"{START}user")  # the template writes it
    assert codec.decode([2048]) == ""


@pytest.mark.slow
def test_a_token_without_flags_that_a_template_writes_passes_the_gate(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "tokenizer.model").unlink()
    edited(folder / "tokenizer.json", lambda own: own.update(added_tokens=own["added_tokens"][:3]))
    edited(folder / "tokenizer_config.json", lambda own: own.pop("extra_special_tokens"))
    (folder / "added_tokens.json").write_text(json.dumps({START: 2048, END: 2049, PLAIN: 2050}))
    artifact = tmp_path / "a"
    manifest = export_checkpoint(folder, artifact, options_named("fp32-ort"))
    checked = check_tokenizer(artifact, manifest.vocabulary, Checkpoint.open(folder))
    assert len(checked.checks) == 4
    assert not [check.failures for check in checked.checks if check.failures]


@pytest.mark.parametrize("listed", ["added_tokens.json", "tokenizer_config.json"])
def test_a_plain_token_is_found_in_normalized_text_as_in_transformers(
    folder: Path, listed: str
) -> None:
    made = unigram()
    next_id = made.get_vocab_size()
    save(made, folder)
    if listed == "added_tokens.json":
        (folder / listed).write_text(json.dumps({"Foo": next_id}))
    else:
        added = {"content": "Foo", **dict.fromkeys(FLAGS, False), "normalized": True}
        edited(folder / listed, lambda own: own.update(added_tokens_decoder={str(next_id): added}))
    assert next_id in assert_same(folder, ("Foo", "foo")).encode("a foo b")
