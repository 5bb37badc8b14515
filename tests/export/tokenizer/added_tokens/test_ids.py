"""Are the ids and text of added tokens those of transformers, wherever they are listed?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from sentencepiece import SentencePieceProcessor
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import options_named
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.export.tokenizer.tokenizer_probes import PROBE_TEXTS
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.tokenizers.kinds import open_tokenizer

from .fine_tune import (
    ADDED,
    END,
    FLAGS,
    PLAIN,
    SIZE,
    START,
    TEXTS,
    assert_same_ids,
    edited,
    without_json,
)


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
    found = CheckpointTokenizer.read(Checkpoint.open(folder))
    codec = found.codec
    assert found.vocabulary.kind == "sentencepiece"
    assert [codec.find(text) for text in (START, END, PLAIN)] == [2048, 2049, 2050]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in (*TEXTS, *(PROBE_TEXTS if is_llama else ())):
        # Of a Mistral's tokenizer.model, transformers puts no space in front of a text's first
        # stretch, where SentencePiece, mistral-common and the driver do.
        own = 0 if is_llama else min(text.find(one) for one in ADDED if one in text)
        rest = theirs(text[own:], add_special_tokens=False)["input_ids"]
        ids = [*pieces.encode(text[:own]), *rest]
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
    manifest = export_checkpoint(folder, artifact, options_named("fp32-ort"))
    assert read_manifest(artifact).vocabulary.kind == "sentencepiece"
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
    more = {"2051": {"content": "more", **dict.fromkeys(FLAGS, False)}}
    edited(folder / "tokenizer_config.json", lambda own: own.update(added_tokens_decoder=more))
    assert_same_ids(folder)
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    assert codec.find("more") == 2051


def test_a_token_of_the_vocabulary_becomes_an_added_token_of_a_tokenizer_json(
    folder: Path,
) -> None:
    content = json.loads((folder / "tokenizer.json").read_bytes())
    vocabulary = content["model"]["vocab"]
    text = next(text for text in vocabulary if len(text) > 3 and text.isalpha())
    added = {str(vocabulary[text]): {"content": text, **dict.fromkeys(FLAGS, False)}}
    edited(folder / "tokenizer_config.json", lambda own: own.update(added_tokens_decoder=added))
    (folder / "tokenizer.model").unlink()
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for one in (text, f"x{text}x", f" {text}"):
        ids = theirs(one, add_special_tokens=False)["input_ids"]
        assert vocabulary[text] in ids
        assert codec.encode(one) == ids


def test_an_added_token_can_be_the_start_token(folder: Path) -> None:
    without_json(folder, bos_token=START, add_bos_token=True)
    found = CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary
    assert (found.bos_token_id, found.add_bos_token) == (2048, True)


def test_flags_of_a_token_that_sentencepiece_has_or_the_model_does_not_score_may_differ(
    folder: Path,
) -> None:
    start = {"content": "<s>", **dict.fromkeys(FLAGS, False), "lstrip": True}
    beyond = {"content": "<pad>", **dict.fromkeys(FLAGS, False)}
    edited(
        folder / "tokenizer_config.json",
        lambda own: own.update(added_tokens_decoder={"1": start, str(SIZE): beyond}),
    )
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": SIZE + 1}))
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    assert codec.find(START) == 2048
