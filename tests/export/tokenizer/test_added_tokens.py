"""Tests of tokens that were added to a SentencePiece model: ids and text are those of transformers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import recipe_named
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.runtime.errors import CheckpointError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.tokenizers.kinds import open_tokenizer

START, END, PLAIN = "<|im_start|>", "<|im_end|>", "def_of"
SIZE = 2064  # tokens that the model scores; the tokenizer has 2051
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEXTS = [
    text
    for own in (START, END, PLAIN)
    for text in (own, f"a{own}b", f"a {own}", f"a  {own} b", own * 2, f"{own}user\nx{own}\n")
]


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


def edited(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def assert_same_ids(folder: Path) -> None:
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert codec.encode(text, allow_special=True) == ids, text


@pytest.mark.situation(
    "tokens added to a SentencePiece model, in tokenizer.json", package="transformers"
)
def test_added_tokens_have_the_ids_of_transformers(folder: Path) -> None:
    assert_same_ids(folder)


@pytest.mark.situation(
    "tokens added to a SentencePiece model, without tokenizer.json", package="transformers"
)
@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "LlamaForCausalLM"])
def test_without_tokenizer_json_the_settings_add_them(
    folder: Path, architecture: str, legacy: bool | None
) -> None:
    (folder / "tokenizer.json").unlink()
    added = {
        str(2048 + number): {
            "content": text,
            "special": text != PLAIN,
            **dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False),
        }
        for number, text in enumerate((START, END, PLAIN))
    }
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "legacy": legacy,
        "added_tokens_decoder": added,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    is_llama = architecture == "LlamaForCausalLM"
    family = "llama" if is_llama else "mistral"
    edited(
        folder / "config.json",
        lambda own: own.update(
            architectures=[architecture], model_type=family, sliding_window=None
        ),
    )
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    assert [codec.find(text) for text in (START, END, PLAIN)] == [2048, 2049, 2050]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        # Of a Mistral's tokenizer.model, transformers puts no space in front of a text's first
        # stretch, where SentencePiece, mistral-common and the driver do.
        if is_llama or text.startswith((START, END, PLAIN)):
            ids = theirs(text, add_special_tokens=False)["input_ids"]
            assert codec.encode(text, allow_special=True) == ids, text


def test_text_of_users_is_not_read_as_special_tokens_and_other_added_tokens_are(
    folder: Path,
) -> None:
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    assert 2048 not in codec.encode(f"{START}user")
    assert 2050 in codec.encode(f"x {PLAIN} y")


def test_the_artifact_encodes_as_the_checkpoint_and_carries_its_template(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    artifact = tmp_path / "a"
    manifest = export_checkpoint(folder, artifact, recipe_named("fp32-ort"))
    assert read_manifest(artifact).vocabulary.kind == "tokenizers"
    for name in ("chat_template.jinja", "additional_chat_templates/tools.jinja"):
        assert (artifact / name).read_bytes() == (folder / name).read_bytes()
        assert name in manifest.files
    ours = open_tokenizer(artifact, manifest)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs_there = transformers.AutoTokenizer.from_pretrained(artifact)
    chat = [{"role": "user", "content": "hello"}]
    text = theirs.apply_chat_template(chat, tokenize=False)
    assert theirs_there.apply_chat_template(chat, tokenize=False) == text
    for one in (text, *TEXTS):
        ids = theirs(one)["input_ids"]
        assert ours.encode(one, allow_special=True) == ids
        assert theirs_there(one)["input_ids"] == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_files_that_disagree_are_refused_with_the_first_string(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({START: 2049, END: 2048}))
    with pytest.raises(CheckpointError, match=r"added_tokens\.json: added token '<\|im_"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


@pytest.mark.parametrize("flag", ["special", "lstrip", "rstrip", "single_word"])
def test_flags_that_disagree_are_refused(folder: Path, flag: str) -> None:
    fields = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    other = {"content": START, "special": True, **fields}
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


def test_ids_with_gaps_are_kept(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({START: 2055}))
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    assert codec.encode(START, allow_special=True) == [2055]
    assert codec.encode("def f(") == codec.encode("def f(", allow_special=True)


def test_a_token_that_the_model_does_not_score_is_left_out(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": SIZE}))
    assert CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary.kind == "sentencepiece"


def test_settings_add_tokens_to_a_tokenizer_json(folder: Path) -> None:
    fields = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), False)
    more = {"2051": {"content": "more", **fields}}
    edited(folder / "tokenizer_config.json", lambda own: own.update(added_tokens_decoder=more))
    assert_same_ids(folder)
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    assert codec.find("more") == 2051


def test_ids_with_gaps_cannot_be_added_to_a_tokenizer_json(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"more": 2055}))
    with pytest.raises(CheckpointError, match="expected ids without gaps"):
        CheckpointTokenizer.read(Checkpoint.open(folder))
