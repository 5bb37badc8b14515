"""The tokenizer of every layout, and the tokenizer files of an artifact."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.tokenizer.tokenizer import read_vocabulary
from tramontane.export.tokenizer.tokenizer_json import TokenizerJson, first_difference
from tramontane.export.tokenizer.write_tokenizer import AS_PUBLISHED, MADE, write_tokenizer
from tramontane.runtime.errors import CheckpointError
from tramontane.runtime.tokenizers.added_tokens import AddedTokens
from tramontane.runtime.tokenizers.sentencepiece import SentencePiece

Write = Callable[..., Path]
TEXTS = [
    "",
    " ",
    "   ",
    "plain words",
    " leading",
    "trailing  ",
    "two  spaces   and  more",
    "def f(x):\n\treturn x\n\n\n",
    "\r\n\t \x00\x7f",
    "naïve café, Straße",
    "中文字符 日本語 한국어",
    "🙂👩‍👩‍👧‍👦 🏳️‍🌈",
    "\u2581 \u200b\u00a0",
    "<s></s><unk> [INST] <0x0A> <0xFF>",
    "a" * 100,
    "\ud7ff\ufffd\U0010ffff",
]


def processor(model: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.fixture(params=["stdlib-5m", "stories15M"])
def published(request: pytest.FixtureRequest, stdlib_5m: Path) -> Path:
    """Folders of models whose tokenizers others trained; one lies beside the repository."""
    if request.param == "stdlib-5m":
        return stdlib_5m
    shared: Path = request.getfixturevalue("shared")
    return shared / "models" / request.param


@pytest.mark.slow
@pytest.mark.situation("GGUF vocabulary of kind `llama`", package="sentencepiece")
def test_tokenizer_built_again_from_gguf_reads_and_writes_as_the_original(
    published: Path, as_gguf: Write
) -> None:
    checkpoint = Checkpoint.open(as_gguf(published))
    found = processor(checkpoint.read_tokenizer().model)
    expected = processor((published / "tokenizer.model").read_bytes())
    assert found.vocab_size() == expected.vocab_size()
    for name in ("bos_id", "eos_id", "unk_id", "pad_id"):
        assert getattr(found, name)() == getattr(expected, name)(), name
    texts = [*TEXTS, (published / "config.json").read_text()]
    for text in texts:
        ids = expected.encode(text)
        assert found.encode(text) == ids, text
        assert found.decode(ids) == expected.decode(ids), text
    for i in range(expected.vocab_size()):
        assert found.id_to_piece(i) == expected.id_to_piece(i)
        assert found.decode([i]) == expected.decode([i]), i


@pytest.mark.slow
def test_gguf_gives_the_vocabulary_of_the_folder_with_spaces_as_in_llama_cpp(
    published: Path, as_gguf: Write
) -> None:
    found = read_vocabulary(Checkpoint.open(as_gguf(published)))
    expected = read_vocabulary(Checkpoint.open(published))
    spaces = AddedTokens(prepend_scheme="always")
    assert found == dataclasses.replace(expected, added_tokens=spaces)


def test_settings_of_gguf_are_kept(tiny_checkpoint: Write, as_gguf: Write) -> None:
    settings = {"add_bos_token": False, "add_space_prefix": False, "bos_token_id": 2}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in settings.items()}
    checkpoint = Checkpoint.open(as_gguf(tiny_checkpoint(), metadata=metadata))
    vocabulary = read_vocabulary(checkpoint)
    assert (vocabulary.bos_token_id, vocabulary.add_bos_token) == (2, False)
    model = processor(checkpoint.read_tokenizer().model)
    assert not model.encode("word", out_type=str)[0].startswith("\u2581")


def test_gguf_without_ids_has_those_that_llama_cpp_takes_for_granted(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    names = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")
    checkpoint = Checkpoint.open(as_gguf(tiny_checkpoint(), metadata=dict.fromkeys(names)))
    assert checkpoint.config.bos_token_id is None
    vocabulary = read_vocabulary(checkpoint)
    assert (vocabulary.bos_token_id, vocabulary.eos_token_ids) == (1, (2,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "t5"}, r"model is 't5', expected 'gpt2' \(byte-level BPE\) or 'llama' \(Sent"),
        ({"model": None}, r"tokenizer\.ggml\.model is None"),
        ({"scores": None}, r"has 2048 tokens, 0 scores, 2048 token_type, expected as many"),
        ({"bos_token_id": 9999}, "bos_token_id is 9999, expected one of 2048 tokens"),
        ({"token_type": [9] * 2048}, "token '<unk>' is not SentencePiece's"),
        ({"precompiled_charsmap": [1]}, "precompiled_charsmap is there"),
        (
            {"tokens": ["<unk>"] * 2048},
            r"tokens 0 and 1 are both '<unk>' \(2047 such twins in all\), expected each piece once"
            r".*; export the folder that it was converted from, with its tokenizer\.model$",
        ),
    ],
)
def test_tokenizer_of_gguf_that_cannot_be_built_is_refused(
    tiny_checkpoint: Write, as_gguf: Write, changes: dict[str, Any], message: str
) -> None:
    metadata = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    path = as_gguf(tiny_checkpoint(), metadata=metadata)
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_vocabulary(Checkpoint.open(path))
    assert str(refusal.value).startswith(str(path))


def test_start_and_end_of_mistrals_layout_are_the_tokenizers(
    tiny_checkpoint: Write, as_mistral: Write
) -> None:
    vocabulary = read_vocabulary(Checkpoint.open(as_mistral(tiny_checkpoint())))
    assert (vocabulary.bos_token_id, vocabulary.eos_token_ids) == (1, (2,))
    assert vocabulary.add_bos_token


def test_tokenizer_named_by_its_version_is_carried_under_the_usual_name(
    tiny_checkpoint: Write, as_mistral: Write, tmp_path: Path
) -> None:
    folder = as_mistral(tiny_checkpoint())
    model = (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").rename(folder / "tokenizer.model.v3")
    checkpoint = Checkpoint.open(folder)
    assert folder / "tokenizer.model.v3" in checkpoint.files
    write(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == model


def test_two_versions_of_a_tokenizer_are_named(tiny_checkpoint: Write, as_mistral: Write) -> None:
    folder = as_mistral(tiny_checkpoint())
    shutil.copy(folder / "tokenizer.model", folder / "tokenizer.model.v2")
    Checkpoint.open(folder)  # the one without a version is meant
    (folder / "tokenizer.model").rename(folder / "tokenizer.model.v3")
    message = r"tokenizer\.model\.v2 and tokenizer\.model\.v3, expected one tokenizer; copy"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


def write(checkpoint: Checkpoint, out: Path) -> str:
    out.mkdir(exist_ok=True)
    return write_tokenizer(checkpoint, out, read_vocabulary(checkpoint))


def publish(folder: Path, *, settings: dict[str, Any], merges_kept: int | None = None) -> None:
    """Put both of Hugging Face's files beside the weights, spelled in a way that is not ours."""
    model = (folder / "tokenizer.model").read_bytes()
    vocabulary = read_vocabulary(Checkpoint.open(folder))
    made = TokenizerJson(model, vocabulary, reads_control=True)
    content = json.loads(made.tokenizer().to_str())
    content["model"]["merges"] = content["model"]["merges"][:merges_kept]
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=7))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=7))


def edit_post_processor(folder: Path, *, end: str) -> None:
    """Let the published ``tokenizer.json`` put a token after each text."""
    content = json.loads((folder / "tokenizer.json").read_bytes())
    template = content["post_processor"]
    template["single"].append({"SpecialToken": {"id": end, "type_id": 0}})
    template["special_tokens"][end] = {"id": end, "ids": [2], "tokens": [end]}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def agrees(folder: Path) -> bool:
    model = SentencePiece((folder / "tokenizer.model").read_bytes())
    return first_difference(Tokenizer.from_file(str(folder / "tokenizer.json")), model) is None


def test_what_was_published_beside_the_tokenizer_is_carried_over(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    folder = tiny_checkpoint()
    (folder / "tokenizer_config.json").write_text(
        '{"add_bos_token": false, "sp_model_kwargs": {}}'
    )
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    (folder / "notes.txt").write_text("not ours")
    assert write(Checkpoint.open(folder), tmp_path) == MADE
    carried = contents(tmp_path)
    names = {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"}
    assert carried.keys() == names | {"special_tokens_map.json"}
    assert json.loads(carried["special_tokens_map.json"]) == {"bos_token": "<s>"}
    settings = json.loads(carried["tokenizer_config.json"])
    assert settings["sp_model_kwargs"] == {}
    assert settings["add_bos_token"] is False
    assert not read_vocabulary(Checkpoint.open(folder)).add_bos_token


def test_published_tokenizer_that_agrees_is_kept_with_all_its_values(
    tiny_checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoint()
    publish(folder, settings={"chat_template": "{{ messages }}"})
    capsys.readouterr()
    assert write(Checkpoint.open(folder), tmp_path) == AS_PUBLISHED == "as published"
    found = contents(tmp_path)
    assert found.keys() == {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"}
    for name, content in found.items():
        published = (folder / name).read_bytes()
        if name == "tokenizer.model":
            assert content == published
        else:
            assert json.loads(content) == json.loads(published), name
    assert capsys.readouterr().err == ""


def test_published_tokenizer_with_lengths_to_cut_at_and_to_pad_to_agrees(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    folder = tiny_checkpoint()
    publish(folder, settings={})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert write(Checkpoint.open(folder), tmp_path) == AS_PUBLISHED


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: publish(folder, settings={}, merges_kept=-99), " in SentencePiece; it"),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{"),
            "cannot be read (EOF while parsing an object at line 1 column 1)",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff"),
            "cannot be read ('utf-8' codec can't decode byte 0xff in position 0",
        ),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "has no settings beside it"),
        (
            lambda folder: edit_post_processor(folder, end="</s>"),
            "ends a text with [2], which a prompt must not",
        ),
    ],
    ids=["merges missing", "no JSON", "no UTF-8", "no settings", "an end"],
)
def test_published_tokenizer_that_disagrees_is_made_anew_and_that_is_said(
    tiny_checkpoint: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    folder = tiny_checkpoint()
    publish(folder, settings={})
    spoil(folder)
    capsys.readouterr()
    assert write(Checkpoint.open(folder), tmp_path) == MADE == "made from tokenizer.model"
    assert agrees(tmp_path)
    told = capsys.readouterr().err
    assert told.startswith(f"{folder / 'tokenizer.json'}: ")
    assert told.endswith("; it is made anew\n")
    assert said in told


@pytest.mark.parametrize("template", [None, "{{ messages }}"])
def test_settings_with_a_chat_template_make_text_be_read_as_control_tokens(
    tiny_checkpoint: Write, tmp_path: Path, template: str | None
) -> None:
    folder = tiny_checkpoint()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert write(Checkpoint.open(folder), tmp_path) == MADE
    assert (
        json.loads((tmp_path / "tokenizer_config.json").read_bytes())["chat_template"] == template
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (2 in theirs("x</s>y")["input_ids"]) == (template is not None)
    assert agrees(tmp_path)


def test_a_chat_template_in_a_file_makes_text_be_read_as_control_tokens(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    folder = tiny_checkpoint()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert write(Checkpoint.open(folder), tmp_path) == MADE
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert 2 in theirs("x</s>y")["input_ids"]
    assert theirs.chat_template == "{{ messages }}"
    assert agrees(tmp_path)


def test_tokenizer_that_the_format_cannot_say_is_left_out_with_the_reason(
    tiny_checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoint()
    publish(folder, settings={}, merges_kept=-200)
    model: Any = sentencepiece_model_pb2.ModelProto.FromString(
        (folder / "tokenizer.model").read_bytes()
    )
    model.pieces[400].type = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    why = f"it has user-defined pieces, such as {model.pieces[400].piece!r}, which SentencePiece never splits"
    assert write(Checkpoint.open(folder), tmp_path) == f"left out: {why}"
    assert contents(tmp_path).keys() == {"tokenizer.model", "tokenizer_config.json"}
    said = capsys.readouterr().err
    assert said.endswith(
        f"{folder / 'tokenizer.model'}: tokenizer.json is left out, since {why}\n"
    )


def test_tokenizer_that_is_not_reproduced_is_left_out_with_the_text_that_shows_it(
    tiny_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_rules(tokenizer: TokenizerJson) -> Tokenizer:
        found = whole(tokenizer)
        found.normalizer = None  # type: ignore[assignment]
        return found

    whole = TokenizerJson.tokenizer
    monkeypatch.setattr(TokenizerJson, "tokenizer", without_rules)
    found = write(Checkpoint.open(tiny_checkpoint()), tmp_path)
    assert found.startswith("left out: 'a' is [")
    assert contents(tmp_path).keys() == {"tokenizer.model", "tokenizer_config.json"}


@pytest.mark.parametrize("as_layout", ["as_mistral", "as_gguf"])
def test_every_layout_gets_the_tokenizer_of_the_folder(
    request: pytest.FixtureRequest, tiny_checkpoint: Write, tmp_path: Path, as_layout: str
) -> None:
    folder = tiny_checkpoint()
    other = request.getfixturevalue(as_layout)(folder)
    assert write(Checkpoint.open(folder), tmp_path / "a") == MADE
    assert write(Checkpoint.open(other), tmp_path / "b") == MADE
    found, expected = contents(tmp_path / "b"), contents(tmp_path / "a")
    assert found.keys() == expected.keys()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert found[name] == expected[name], name


def test_checkpoint_without_a_tokenizer_is_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    (folder / "tokenizer.model").unlink()
    with pytest.raises(
        CheckpointError, match=r"holds no tokenizer\.json and no tokenizer\.model, expected"
    ):
        read_vocabulary(Checkpoint.open(folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", "text", "tokenizer.model: not a SentencePiece model"),
        ("tokenizer.model", "", "tokenizer.model: not a SentencePiece model"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: not JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: holds a list"),
    ],
)
def test_spoilt_tokenizer_is_named(
    tiny_checkpoint: Write, name: str, content: str, message: str
) -> None:
    folder = tiny_checkpoint()
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_vocabulary(Checkpoint.open(folder))


def test_tokenizer_with_more_pieces_than_the_model_scores_is_refused(
    tiny_checkpoint: Write,
) -> None:
    with pytest.raises(CheckpointError, match="2048 tokens, the model scores 1024; this is an"):
        read_vocabulary(Checkpoint.open(tiny_checkpoint(vocab_size=1024)))
