"""SentencePiece of GGUF files: added and control pieces, spaces as in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import transformers
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.published_tokenizer.chat_templates import published_templates
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.export.tokenizer.write_tokenizer import LEFT_OUT, MADE, write_tokenizer
from tramontane.validate.tokenizer.templates import written_templates

Write = Callable[..., Path]
TEMPLATE = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
# As llama.cpp's converter writes added tokens: spaces as they are.
ADDED = {"<sep>": USER_DEFINED, "<a b>": USER_DEFINED, "<|im_end|>": CONTROL}


@pytest.fixture
def chat_model(tiny_checkpoint: Write, as_gguf: Write) -> Path:
    return model_with(ADDED, tiny_checkpoint, as_gguf)


def model_with(added: dict[str, int], tiny_checkpoint: Write, as_gguf: Write) -> Path:
    """A model whose tokenizer has added tokens and a chat template; the last ends a turn."""
    folder = tiny_checkpoint(vocab_size=2048 + len(added))
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = range(own.vocab_size())
    kinds = ((own.IsUnknown, 2), (own.IsControl, CONTROL), (own.IsUnused, 5), (own.IsByte, 6))
    named = {
        "tokens": [*map(own.IdToPiece, ids), *added],
        "scores": [*map(own.GetScore, ids), *(-1000.0 for _ in added)],
        "token_type": [
            *(next((kind for holds, kind in kinds if holds(i)), NORMAL) for i in ids),
            *added.values(),
        ],
        "eot_token_id": 2047 + len(added),
    }
    metadata = {f"tokenizer.ggml.{name}": value for name, value in named.items()}
    return as_gguf(folder, metadata={**metadata, "tokenizer.chat_template": TEMPLATE})


# Of llama.cpp's llama_tokenize (llama-cpp-python 0.3.36), without parse_special: file and text.
SPACES = {"<sep>": USER_DEFINED, "  ": USER_DEFINED, "     ": USER_DEFINED, "x  ": USER_DEFINED}
CUT_BY_LLAMA_CPP: dict[str, tuple[dict[str, int], dict[str, list[int]]]] = {
    "words": (
        ADDED,
        {
            "a<sep>b": [271, 2048, 307],
            "x <sep> y": [800, 1953, 2048, 259, 1981],
            "a<sep><sep>b": [271, 2048, 2048, 307],
            "q<a b>z <a b>": [1953, 2014, 2049, 1127, 1953, 2049],
            "<sep>def": [2048, 428],
            " <sep>  two": [259, 2048, 259, 1623],
            "a<sep>\nb": [271, 2048, 1953, 13, 1979],
            "<sep": [634, 1375],
            "é<sep>漢": [1953, 198, 172, 2048, 1953, 233, 191, 165],
        },
    ),
    "spaces": (
        {**SPACES, "<|im_end|>": CONTROL},
        {
            " <sep>  two": [259, 2048, 2049, 1623],
            "a  b     c": [271, 2049, 307, 2050, 283],
            "ax  y": [271, 2051, 736],
        },
    ),
}


@pytest.mark.parametrize("name", CUT_BY_LLAMA_CPP)
def test_user_defined_pieces_cut_a_text_and_put_a_space_behind_as_in_llama_cpp(
    name: str, tiny_checkpoint: Write, as_gguf: Write
) -> None:
    added, texts = CUT_BY_LLAMA_CPP[name]
    path = model_with(added, tiny_checkpoint, as_gguf)
    codec = CheckpointTokenizer.read(Checkpoint.open(path)).codec
    assert {text: codec.encode(text) for text in texts} == texts


@pytest.mark.parametrize("name", CUT_BY_LLAMA_CPP)
def test_user_defined_pieces_are_what_an_installed_llama_cpp_cuts_at(
    name: str, tiny_checkpoint: Write, as_gguf: Write
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    added, texts = CUT_BY_LLAMA_CPP[name]
    path = model_with(added, tiny_checkpoint, as_gguf)
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    found = {text: model.tokenize(text.encode(), add_bos=False) for text in texts}
    assert found == texts


def test_the_space_behind_a_user_defined_piece_is_in_the_text_as_in_llama_cpp(
    chat_model: Path,
) -> None:
    codec = CheckpointTokenizer.read(Checkpoint.open(chat_model)).codec
    assert codec.decode(codec.encode("a<sep>b<a b>")) == "a<sep> b<a b>"
    assert codec.token_bytes(2049) == b"<a b>"


def test_control_pieces_are_never_made_of_text(chat_model: Path) -> None:
    codec = CheckpointTokenizer.read(Checkpoint.open(chat_model)).codec
    tokens = codec.encode("x<|im_end|>y</s>")
    assert {2, 2050}.isdisjoint(tokens)
    assert codec.decode(tokens) == "x<|im_end|>y</s>"


# Of llama.cpp's llama_tokenize (llama-cpp-python 0.3.36), with parse_special, on this file.
AS_LLAMA_CPP = {
    "<|im_end|>def": [2050, 428],
    "<|im_end|> def": [2050, 259, 311],
    "a <|im_end|> b": [271, 1953, 2050, 259, 1979],
    "a<|im_end|><|im_end|>\nx": [271, 2050, 2050, 1953, 13, 1984],
    "<s>def f(": [1, 428, 287, 1974],
    "<unk>x": [0, 800],
    "<|im_end|>  two": [2050, 259, 1623],
    "x<|im_end|>": [800, 2050],
}


@pytest.mark.parametrize("text", AS_LLAMA_CPP)
def test_text_after_a_control_piece_gets_a_space_in_front_as_in_llama_cpp(
    chat_model: Path, text: str
) -> None:
    found = CheckpointTokenizer.read(Checkpoint.open(chat_model))
    assert found.codec.encode(text, allow_special=True) == AS_LLAMA_CPP[text]
    assert found.vocabulary.added_tokens.prepend_scheme == "always"


def test_end_of_turn_and_chat_template_are_carried(
    tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path
) -> None:
    path = model_with({"<|im_end|>": CONTROL}, tiny_checkpoint, as_gguf)
    checkpoint, out = Checkpoint.open(path), tmp_path / "out"
    vocabulary = CheckpointTokenizer.read(checkpoint).vocabulary
    assert vocabulary.eos_token_ids == (2, 2048)
    out.mkdir()
    assert write_tokenizer(checkpoint, out, vocabulary) == MADE
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs.chat_template == TEMPLATE
    # A template writes control tokens, which other runtimes read out of its text.
    assert theirs.encode("</s><|im_end|>", add_special_tokens=False) == [2, 2048]


def test_template_is_carried_where_tokenizer_json_is_left_out(
    chat_model: Path, tmp_path: Path
) -> None:
    checkpoint, out = Checkpoint.open(chat_model), tmp_path / "out"
    found = CheckpointTokenizer.read(checkpoint)
    out.mkdir()
    assert write_tokenizer(checkpoint, out, found.vocabulary).startswith(LEFT_OUT)
    assert not (out / "tokenizer.json").exists()
    published = checkpoint.read_tokenizer()
    assert written_templates(out) == published_templates(published) != {}
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs.chat_template == TEMPLATE
    assert (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")
