"""Tokens added to a SentencePiece model that no tokenizer.json expresses: as SentencePiece reads them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import options_named
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.published_tokenizer.sentencepiece_model import KIND, parse, serialize
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.runtime.errors import CheckpointError
from tramontane.runtime.loading.open_tokenizer import open_tokenizer
from tramontane.validate.measurement import GateOptions
from tramontane.validate.run_gate import validate

from .fine_tune import END, FLAGS, PLAIN, START, TEXTS, edited, without_json

SIZE = 600
IDENTITY, NMT = "identity", "nmt_nfkc"
TRAINED = {
    "unigram": {"model_type": "unigram", "normalization_rule_name": IDENTITY},
    "unigram without bytes": {
        "model_type": "unigram",
        "normalization_rule_name": IDENTITY,
        "byte_fallback": False,
    },
    "a map of characters": {"model_type": "bpe", "normalization_rule_name": NMT},
    "user-defined pieces": {
        "model_type": "bpe",
        "normalization_rule_name": IDENTITY,
        "user_defined_symbols": ["return"],
    },
}


@cache
def trained(kind: str) -> bytes:
    """A SentencePiece model of so many pieces that no list of merges expresses."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    text = [line for path in files for line in path.read_text().splitlines()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        **{
            "vocab_size": SIZE,
            "character_coverage": 1.0,
            "byte_fallback": True,
            "remove_extra_whitespaces": False,
            "minloglevel": 2,
            **TRAINED[kind],
        },
    )
    return model.getvalue()


@pytest.fixture
def publish(folder: Path) -> Callable[..., Path]:
    """Leave a model of that kind and a list of added tokens."""

    def write(kind: str, **settings: Any) -> Path:
        (folder / "tokenizer.model").write_bytes(trained(kind))
        without_json(folder, **settings)
        (folder / "added_tokens.json").write_text(
            json.dumps({START: SIZE, END: SIZE + 1, PLAIN: SIZE + 2})
        )
        return folder

    return write


def with_own_pieces(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """The same model with the added tokens as user-defined pieces, which SentencePiece finds."""
    proto = parse(model)
    for text in (START, END, PLAIN):
        proto.pieces.add(piece=text, score=0, type=KIND.USER_DEFINED)
    return sentencepiece.SentencePieceProcessor(model_proto=serialize(proto))


@pytest.mark.situation(
    "tokens added to SentencePiece's unigram, or to a model with a map of characters or "
    "user-defined pieces, without tokenizer.json",
    package="sentencepiece",
)
@pytest.mark.parametrize("kind", TRAINED)
def test_they_are_found_as_sentencepiece_finds_user_defined_pieces(
    publish: Callable[..., Path], kind: str
) -> None:
    found = CheckpointTokenizer.read(Checkpoint.open(publish(kind)))
    assert found.vocabulary.kind == "sentencepiece"
    expected = with_own_pieces(trained(kind))
    space = expected.PieceToId("\u2581")
    control = {expected.IdToPiece(token) for token in range(3)}
    for text in (*TEXTS, *PROBE_TEXTS):
        if any(piece in text for piece in control):
            continue  # SentencePiece reads no text as its control pieces
        ids = expected.EncodeAsIds(text)
        if text.startswith((START, END, PLAIN)) and ids[0] == space:
            ids = ids[1:]  # SentencePiece puts a space in front of its own, transformers of none
        assert found.codec.encode(text, allow_special=True) == ids, text
        kept = [token for token in ids if token not in (SIZE, SIZE + 1)]  # the template's
        assert found.codec.decode(ids) == expected.decode(kept), text


def test_spaces_of_each_stretch_are_as_the_settings_say(publish: Callable[..., Path]) -> None:
    folder = publish("unigram", tokenizer_class="LlamaTokenizer", legacy=True)
    edited(
        folder / "config.json",
        lambda own: own.update(
            architectures=["LlamaForCausalLM"], model_type="llama", sliding_window=None
        ),
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained("unigram"))
    for legacy, rest in ((True, pieces.encode("user")), (False, pieces.encode("user")[1:])):
        edited(folder / "tokenizer_config.json", lambda own, now=legacy: own.update(legacy=now))
        codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
        assert codec.encode(f"{START}user", allow_special=True) == [SIZE, *rest]


def test_text_of_users_is_not_read_as_them(publish: Callable[..., Path]) -> None:
    codec = CheckpointTokenizer.read(Checkpoint.open(publish("unigram"))).codec
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained("unigram"))
    assert codec.encode(f"{START}user") == pieces.encode(f"{START}user")


@pytest.mark.slow
def test_the_artifact_has_the_model_and_the_tokens_and_no_tokenizer_json(
    publish: Callable[..., Path], tmp_path: Path
) -> None:
    folder, artifact = publish("unigram"), tmp_path / "a"
    manifest = export_checkpoint(folder, artifact, options_named("fp32-ort"))
    assert (artifact / "tokenizer.model").read_bytes() == trained("unigram")
    assert not (artifact / "tokenizer.json").exists()
    ours = open_tokenizer(artifact, manifest)
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    for text in TEXTS:
        assert ours.encode(text, allow_special=True)[1:] == codec.encode(text, allow_special=True)
    verdict = validate(artifact, Checkpoint.open(folder), GateOptions())
    assert not [check for check in verdict.measurement.checks if check.failures]


def test_an_id_of_a_piece_is_refused(publish: Callable[..., Path]) -> None:
    folder = publish("unigram")
    (folder / "added_tokens.json").write_text(json.dumps({START: 300}))
    with pytest.raises(CheckpointError, match=r"has id 300, and tokenizer\.model has '.+', exp"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


@pytest.mark.parametrize(
    ("text", "flag", "why"),
    [
        (PLAIN, "single_word", "'def_of' has single_word true"),
        (f"\u2581{PLAIN}", "lstrip", "decoding makes a space"),
    ],
)
def test_a_token_that_the_driver_cannot_find_is_refused(
    publish: Callable[..., Path], text: str, flag: str, why: str
) -> None:
    own = {"content": text, **dict.fromkeys(FLAGS, False), flag: True}
    folder = publish("unigram", added_tokens_decoder={str(SIZE): own})
    (folder / "added_tokens.json").unlink()
    with pytest.raises(
        CheckpointError, match=rf"{why}.*its kind is not SentencePiece's BPE; save"
    ):
        CheckpointTokenizer.read(Checkpoint.open(folder))


def test_a_model_that_writes_spaces_behind_words_is_refused(publish: Callable[..., Path]) -> None:
    folder = publish("unigram")
    proto = parse(trained("unigram"))
    proto.trainer_spec.treat_whitespace_as_suffix = True
    (folder / "tokenizer.model").write_bytes(serialize(proto))
    with pytest.raises(CheckpointError, match="it writes spaces in another way, and no tokenizer"):
        CheckpointTokenizer.read(Checkpoint.open(folder))
