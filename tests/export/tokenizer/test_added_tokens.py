"""Tests of tokens that were added to a SentencePiece model: ids and text are those of transformers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from sentencepiece import SentencePieceProcessor
from tokenizers.pre_tokenizers import Metaspace
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import open_published
from tramontane.export.options import recipe_named
from tramontane.export.tokenizer.added_tokens import with_added_tokens
from tramontane.export.tokenizer.sentencepiece_model import KIND, parse, serialize
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.export.tokenizer.tokenizer_json import TokenizerJson
from tramontane.export.tokenizer.tokenizer_probes import PROBE_TEXTS
from tramontane.export.tokenizer.write_tokenizer import write_tokenizer
from tramontane.runtime.errors import CheckpointError
from tramontane.runtime.manifest import Vocabulary, read_manifest
from tramontane.runtime.tokenizers.kinds import open_tokenizer
from tramontane.runtime.tokenizers.sentencepiece import SentencePiece

ADDED = START, END, PLAIN = "<|im_start|>", "<|im_end|>", "def_of"
FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
NO_VOCABULARY = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
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
    for text in (*TEXTS, *PROBE_TEXTS):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert codec.encode(text, allow_special=True) == ids, text
        assert codec.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


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
    manifest = export_checkpoint(folder, artifact, recipe_named("fp32-ort"))
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


def test_ids_with_gaps_cannot_be_added_to_a_tokenizer_json(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"more": 2055}))
    with pytest.raises(CheckpointError, match="expected ids without gaps"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


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


def without_json(folder: Path, **settings: Any) -> None:
    """Leave the model and a list of added tokens alone, with settings."""
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({START: 2048, END: 2049}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_an_added_token_can_be_the_start_token(folder: Path) -> None:
    without_json(folder, bos_token=START, add_bos_token=True)
    found = CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary
    assert (found.bos_token_id, found.add_bos_token) == (2048, True)


def test_an_unknown_start_token_is_refused_where_prompts_begin_with_it(folder: Path) -> None:
    without_json(folder, bos_token="<none>", add_bos_token=False)
    found = CheckpointTokenizer.read(Checkpoint.open(folder)).vocabulary
    assert (found.bos_token_id, found.add_bos_token) == (None, False)
    edited(folder / "tokenizer_config.json", lambda own: own.update(add_bos_token=True))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: bos_token is '<none>'"):
        CheckpointTokenizer.read(Checkpoint.open(folder))


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


def write_json(folder: Path, *tokens: transformers.AddedToken, prepends: bool = False) -> None:
    """Publish a tokenizer.json with these added tokens, and a normalizer or Metaspace."""
    model = (folder / "tokenizer.model").read_bytes()
    made = TokenizerJson(model, NO_VOCABULARY, reads_control=True).tokenizer()
    if not prepends:
        made.normalizer = None
        made.pre_tokenizer = Metaspace(prepend_scheme="first", split=False)
    made.add_tokens(list(tokens))
    (folder / "tokenizer.json").write_text(made.to_str())


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
    export_checkpoint(folder, artifact, recipe_named("fp32-ort"))
    text = f"{START}user\nhi{END}"
    code = f"""
import sys; sys.path[:] = {sys.path!r}
for name in ("tokenizers", "transformers", "torch", "google.protobuf"):
    sys.modules[name] = None
from tramontane.runtime import Session
session = Session.load({str(artifact)!r}, threads=1, verify=True)
print(session.tokenizer.encode({text!r}, allow_special=True))
assert list(session.stream({text!r}, max_new_tokens=3, allow_special=True))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert json.loads(done.stdout) == theirs(text)["input_ids"]
