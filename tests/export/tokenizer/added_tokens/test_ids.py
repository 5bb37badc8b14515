"""Are the ids and text of added tokens those of transformers, wherever they are listed?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, processors
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import open_published
from tramontane.export.options import options_named
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.tokenizer.added_tokens import with_added_tokens
from tramontane.export.tokenizer.tokenizer import (
    CheckpointTokenizer,
    open_codec,
    read_vocabulary,
)
from tramontane.export.tokenizer.write_tokenizer import write_tokenizer
from tramontane.runtime.loading.open_tokenizer import open_tokenizer
from tramontane.runtime.manifest import read_manifest

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


def test_an_end_token_of_the_tokenizer_json_beside_the_model_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "tokenizer.json"
    published = Tokenizer.from_file(str(path))
    published.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    published.save(str(path))
    checkpoint = Checkpoint.open(folder)
    vocabulary = read_vocabulary(checkpoint)
    assert vocabulary.kind == "sentencepiece"
    origin = write_tokenizer(checkpoint, tmp_path, vocabulary)
    assert origin == "made from tokenizer.json, without its end of a text"
    assert "ends a text with </s>, which a prompt must not" in capsys.readouterr().err
    found = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (*TEXTS, *PROBE_TEXTS):
        assert found.encode(text).ids == published.encode(text).ids[:-1]


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


MORE, OTHER = "<|more|>", "<|other|>"


@pytest.mark.situation(
    "special tokens that the settings name and no file gives an id", package="transformers"
)
@pytest.mark.parametrize("keeps", ["tokenizer.json", "tokenizer.model", "both"])
@pytest.mark.parametrize(
    "named",
    [
        {"additional_special_tokens": [MORE, OTHER]},
        {"extra_special_tokens": [MORE, OTHER]},
        {"pad_token": OTHER, "additional_special_tokens": [MORE]},
        {"pad_token": START, "additional_special_tokens": [MORE]},
    ],
    ids=str,
)
def test_tokens_without_an_id_have_the_next_ones_as_in_transformers(
    folder: Path, named: dict[str, Any], keeps: str
) -> None:
    def name(settings: dict[str, Any]) -> None:
        settings.pop("extra_special_tokens")  # transformers reads no other list beside it
        settings.update({"additional_special_tokens": [START, END], **named})

    edited(folder / "tokenizer_config.json", name)
    if keeps == "tokenizer.json":
        (folder / "tokenizer.model").unlink()
    elif keeps == "tokenizer.model":
        (folder / "tokenizer.json").unlink()
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for token in (one for one in (MORE, OTHER) if one in str(named)):
        for text in (f"{token}x", f"{token} x", f"{token}{token}", f"{MORE}a {token}b"):
            ids = theirs(text, add_special_tokens=False)["input_ids"]
            assert codec.encode(text, allow_special=True) == ids, text
            if keeps != "tokenizer.model":  # there transformers puts and strips no first space
                assert codec.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


def test_tokens_without_an_id_that_the_model_does_not_score_are_left_out(folder: Path) -> None:
    edited(folder / "config.json", lambda own: own.update(vocab_size=2051))
    edited(
        folder / "tokenizer_config.json",
        lambda own: own.update(extra_special_tokens=[MORE]),
    )
    published = open_published(folder)
    found = with_added_tokens(published.read_tokenizer(), published.config)
    assert len(open_codec(found)) == 2051
    assert open_codec(found).find(MORE) is None
