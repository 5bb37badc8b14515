"""Which added tokens does the driver read beside the SentencePiece model, and as what?"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from sentencepiece import SentencePieceProcessor
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import open_published
from tramontane.export.options import options_named
from tramontane.export.published_tokenizer.sentencepiece_model import KIND, parse, serialize
from tramontane.export.tokenizer.added_tokens import with_added_tokens
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.export.tokenizer.write_tokenizer import write_tokenizer
from tramontane.runtime.tokenizers.sentencepiece import SentencePiece

from .fine_tune import (
    ADDED,
    END,
    PLAIN,
    START,
    assert_same_ids,
    edited,
    without_json,
    write_json,
)


@pytest.mark.parametrize("prepends", [True, False])
@pytest.mark.parametrize("flag", ["special", "lstrip", "rstrip"])
def test_flags_are_those_of_transformers(folder: Path, flag: str, prepends: bool) -> None:
    tokens = [transformers.AddedToken(one, normalized=False, **{flag: True}) for one in ADDED]
    write_json(folder, *tokens, prepends=prepends)
    assert CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary.kind == "sentencepiece"
    assert_same_ids(folder)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("prepends", [True, False])
def test_spaces_are_those_of_the_class_for_llama(
    folder: Path, prepends: bool, legacy: bool
) -> None:
    edited(
        folder / "config.json",
        lambda own: own.update(
            architectures=["LlamaForCausalLM"], model_type="llama", sliding_window=None
        ),
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": legacy}))
    tokens = [transformers.AddedToken(one, normalized=False) for one in ADDED]
    write_json(folder, *tokens, prepends=prepends)
    assert CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary.kind == "sentencepiece"
    assert_same_ids(folder)


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [True, False])
def test_tokens_added_to_llamas_vocabulary_are_read_beside_its_model(
    folder: Path, shared: Path, legacy: bool
) -> None:
    shutil.copy(shared / "models/stories15M/tokenizer.model", folder)
    without_json(folder, tokenizer_class="LlamaTokenizer", legacy=legacy, bos_token="<s>")
    (folder / "added_tokens.json").write_text(json.dumps({START: 32000, END: 32001}))
    edited(
        folder / "config.json",
        lambda own: own.update(
            architectures=["LlamaForCausalLM"],
            model_type="llama",
            sliding_window=None,
            vocab_size=32002,
        ),
    )
    published = open_published(folder)
    tokenizer = with_added_tokens(published.read_tokenizer(), published.config)
    assert tokenizer.kind == "sentencepiece"
    scheme = "always" if legacy else "first"
    assert tokenizer.added_tokens.prepend_scheme == scheme
    codec = SentencePiece(tokenizer.model, tokenizer.added_tokens)
    found = codec.encode(f"{START}user\nhello{END}", allow_special=True)
    inside = "\u2581user" if legacy else "user"
    assert [codec.piece(token) for token in found[:2]] == [START, inside]


@pytest.mark.parametrize(
    ("token", "prepends", "why"),
    [
        (transformers.AddedToken(PLAIN, single_word=True, normalized=False), False, "single_word"),
        (transformers.AddedToken(PLAIN, normalized=True), True, "has normalized true, and the"),
        (
            transformers.AddedToken(f"\u2581{PLAIN}", normalized=False),
            False,
            "decoding makes a space",
        ),
        (transformers.AddedToken(f" {PLAIN}", normalized=False), False, " in SentencePiece"),
        (transformers.AddedToken("<0x41>", normalized=False), False, "decoding makes a byte"),
    ],
)
def test_what_sentencepiece_cannot_read_alike_stays_a_tokenizer_json(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    token: transformers.AddedToken,
    prepends: bool,
    why: str,
) -> None:
    tokens = [transformers.AddedToken(one, normalized=False) for one in (START, END)]
    write_json(folder, *tokens, token, prepends=prepends)
    checkpoint = Checkpoint.open(folder)
    found = CheckpointTokenizer.read(checkpoint)
    assert found.vocabulary.kind == "tokenizers"
    assert_same_ids(folder)
    (tmp_path / "out").mkdir()
    write_tokenizer(checkpoint, tmp_path / "out", found.vocabulary)
    said = capsys.readouterr().err
    assert ": the driver reads tokenizer.json and needs the package tokenizers, since " in said
    assert why in said
    assert not (tmp_path / "out" / "tokenizer.model").exists()


def test_other_merges_in_the_tokenizer_json_stay_a_tokenizer_json(folder: Path) -> None:
    edited(folder / "tokenizer.json", lambda own: own["model"]["merges"].pop())
    assert CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary.kind == "tokenizers"
    assert_same_ids(folder)


@pytest.mark.situation(
    "control pieces of SentencePiece in a chat template", package="transformers"
)
@pytest.mark.parametrize("prepends", [True, False, None])
def test_control_pieces_are_read_in_text_of_templates_alone(
    folder: Path, prepends: bool | None
) -> None:
    proto = parse((folder / "tokenizer.model").read_bytes())
    for piece in ("[INST]", "[/INST]"):
        proto.pieces.add(piece=piece, score=0, type=KIND.CONTROL)
    (folder / "tokenizer.model").write_bytes(serialize(proto))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if prepends is None:
        (folder / "tokenizer.json").unlink()
    else:
        write_json(folder, prepends=prepends)
    found = CheckpointTokenizer.read(Checkpoint.open(folder))
    assert found.vocabulary.kind == "sentencepiece"
    text = "<s>[INST] hello[/INST]def f(</s>"
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert found.codec.encode(text) == pieces.encode(text)
    assert found.codec.decode(found.codec.encode(text)) == text
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert {1, 2048, 2049, 2} <= set(ids)
    assert found.codec.encode(text, allow_special=True) == ids


@pytest.mark.slow
def test_the_driver_reads_added_tokens_without_the_package_tokenizers(
    folder: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "a"
    export_checkpoint(folder, artifact, options_named("fp32-ort"))
    text = f"{START}user\nhi{END}"
    code = f"""
import sys; sys.path[:] = {sys.path!r}
for name in ("tokenizers", "transformers", "torch", "google.protobuf"):
    sys.modules[name] = None
from tramontane.runtime import Session
session = Session.load({str(artifact)!r}, threads=1, verify=True)
print(session.tokenizer.encode({text!r}, allow_special=True))
assert list(session.generate({text!r}, max_new_tokens=3, allow_special=True))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert json.loads(done.stdout) == theirs(text)["input_ids"]
