"""Byte-level BPE of GGUF files: the tokenizer that the file was made from."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.gguf.byte_level_tokenizer import build_byte_level
from tramontane.export.formats.gguf.file import read_gguf
from tramontane.export.published_tokenizer.byte_level.agreement import MIXED_CASE
from tramontane.export.published_tokenizer.byte_level.pre_tokenizers import (
    LLAMA_3,
    QWEN_2,
    TEKKEN,
    gpt_2,
    smollm,
    split_by,
)
from tramontane.export.published_tokenizer.byte_level.tekken import read_tekken
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.export.tokenizer.write_tokenizer import write_tokenizer
from tramontane.runtime.errors import CheckpointError

from ...published_tokenizer.byte_level.scripts import SENTENCES, tekken

Write = Callable[..., Path]
CONTROL, OWN = ("<|begin_of_text|>", "<|eot_id|>", "<|im_start|>"), ("<think>", "</think>")
ADDED = tuple(
    form.format(text) for text in (*CONTROL, *OWN) for form in ("{}", "a{}b", " {} ", "{0}{0}")
)
TEXTS = (*PROBE_TEXTS, *SENTENCES.values(), *MIXED_CASE, *ADDED)
WORDS = {
    "llama-bpe": lambda: split_by(LLAMA_3),
    "tekken": lambda: split_by(TEKKEN),
    "qwen2": lambda: split_by(QWEN_2),
    "smollm": smollm,
    "gpt-2": gpt_2,
}


def source(pre: str) -> Tokenizer:
    """A tokenizer as its publisher has it, trained on many scripts."""
    return Tokenizer.from_str(trained(pre))


@cache
def trained(pre: str) -> str:
    found = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    found.pre_tokenizer = WORDS[pre]()
    found.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        found.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, show_progress=False, initial_alphabet=alphabet)
    found.train_from_iterator(SENTENCES.values(), trainer)
    found.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    found.add_tokens([AddedToken(text, normalized=False) for text in OWN])
    return str(found.to_str())


def metadata(found: Tokenizer, named: str | None, **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes of it."""
    added = found.get_added_tokens_decoder()
    described = json.loads(found.to_str())
    kinds = [gguf.TokenType.NORMAL] * found.get_vocab_size()
    for number, token in added.items():
        kinds[number] = gguf.TokenType.CONTROL if token.special else gguf.TokenType.USER_DEFINED
    settings = {
        "model": "gpt2",
        "pre": named,
        "tokens": [found.id_to_token(i) for i in range(found.get_vocab_size())],
        "token_type": list(map(int, kinds)),
        "scores": None,
        "merges": [" ".join(pair) for pair in described["model"]["merges"]],
        "bos_token_id": found.token_to_id(CONTROL[0]),
        "eos_token_id": found.token_to_id(CONTROL[1]),
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in settings.items()}


def built(path: Path) -> tuple[Tokenizer, bool]:
    found = read_gguf(path).metadata
    start = "tokenizer.ggml."
    settings = {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}
    return build_byte_level(settings, path)


@pytest.mark.situation(
    "GGUF vocabulary of kind `gpt2`, by its pre-tokenizer's name", package="tokenizers"
)
@pytest.mark.parametrize("pre", WORDS)
def test_tokenizer_is_the_one_that_the_file_was_made_from(
    tiny_checkpoint: Write, as_gguf: Write, pre: str
) -> None:
    expected = source(pre)
    path = as_gguf(tiny_checkpoint(), metadata=metadata(expected, pre))
    found, adds_start = built(path)
    # transformers reads the file by itself; it knows no name for SmolLM's pre-tokenizer.
    witness = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        tokens = expected.encode(text, add_special_tokens=False).ids
        assert found.encode(text, add_special_tokens=False).ids == tokens, text
        assert found.decode(tokens) == expected.decode(tokens), text
        if pre == "qwen2":  # Qwen2Tokenizer normalizes, transformers' reader of GGUF does not
            text = unicodedata.normalize("NFC", text)  # noqa: PLW2901
        if pre != "smollm":
            assert witness.encode(text, add_special_tokens=False) == tokens, text
    assert adds_start == (pre in ("llama-bpe", "tekken"))
    start = [expected.token_to_id(CONTROL[0])] if adds_start else []
    assert found.encode("a").ids == [*start, *expected.encode("a").ids]


def test_qwen_normalizes_as_its_class_in_transformers(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    found, _ = built(as_gguf(tiny_checkpoint(), metadata=metadata(source("qwen2"), "qwen2")))
    theirs = transformers.Qwen2Tokenizer().backend_tokenizer
    assert str(found.normalizer) == str(theirs.normalizer)
    words = theirs.pre_tokenizer.pre_tokenize_str
    for text in TEXTS:
        assert found.pre_tokenizer.pre_tokenize_str(text) == words(text), text


def test_control_tokens_are_special_and_user_defined_ones_are_found_in_every_text(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    expected = source("llama-bpe")
    path = as_gguf(tiny_checkpoint(), metadata=metadata(expected, "llama-bpe"))
    found, _ = built(path)
    assert found.get_added_tokens_decoder() == expected.get_added_tokens_decoder()
    found.encode_special_tokens = True
    tokens = found.encode("<|im_start|><think>", add_special_tokens=False).ids
    assert tokens[-1] == expected.token_to_id("<think>")
    assert expected.token_to_id("<|im_start|>") not in tokens


def test_start_token_is_as_the_file_says(tiny_checkpoint: Write, as_gguf: Write) -> None:
    expected = source("llama-bpe")
    without = metadata(expected, "llama-bpe", add_bos_token=False)
    found, adds_start = built(as_gguf(tiny_checkpoint(), metadata=without))
    assert not adds_start
    assert found.encode("a").ids == expected.encode("a").ids


@pytest.mark.parametrize("name", [None, "default"])
def test_file_without_a_named_pre_tokenizer_splits_text_as_llama_cpp_does(
    tiny_checkpoint: Write, as_gguf: Write, capsys: pytest.CaptureFixture[str], name: str | None
) -> None:
    found, _ = built(as_gguf(tiny_checkpoint(), metadata=metadata(source("gpt-2"), name)))
    words = found.pre_tokenizer.pre_tokenize_str("it's <b> 12345\n x!?")
    assert [word for word, _ in words] == [
        "it", "'", "s", "Ġ", "<", "b", ">", "Ġ", "123", "45", "Ċ", "Ġx", "!?",
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert ("tokenizer.ggml.pre is missing; text is split as llama.cpp does" in said) == (not name)


TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}{% endfor %}"


def chat_model(tiny_checkpoint: Write, as_gguf: Write, **more: Any) -> Path:
    found = source("llama-bpe")
    size = found.get_vocab_size()
    named = metadata(found, "llama-bpe", eot_token_id=size - 3, unknown_token_id=7)
    return as_gguf(
        tiny_checkpoint(vocab_size=size),
        metadata={**named, "tokenizer.chat_template": TEMPLATE, **more},
    )


def test_ends_and_chat_template_are_carried(
    tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path
) -> None:
    path, out = chat_model(tiny_checkpoint, as_gguf), tmp_path / "out"
    checkpoint = Checkpoint.open(path)
    tokenizer = CheckpointTokenizer.read(checkpoint)
    ids = source("llama-bpe").token_to_id
    vocabulary = tokenizer.vocabulary
    assert vocabulary.eos_token_ids == (ids("<|eot_id|>"), ids("<|im_start|>"))
    assert vocabulary.prompt_start == [ids("<|begin_of_text|>")]
    out.mkdir()
    assert write_tokenizer(checkpoint, out, vocabulary) == f"made from {path.name}"
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs.chat_template == TEMPLATE
    assert (theirs.bos_token, theirs.eos_token) == CONTROL[:2]
    assert theirs("eBay<think>")["input_ids"] == [
        *vocabulary.prompt_start,
        *tokenizer.codec.encode("eBay<think>"),
    ]


def test_named_chat_templates_are_carried(tiny_checkpoint: Write, as_gguf: Write) -> None:
    more = {"tokenizer.chat_template.tool_use": "tools"}
    found = Checkpoint.open(chat_model(tiny_checkpoint, as_gguf, **more)).read_tokenizer()
    assert found.settings["chat_template"] == [
        {"name": "default", "template": TEMPLATE},
        {"name": "tool_use", "template": "tools"},
    ]


def test_pixtrals_pattern_is_corrected(
    tiny_checkpoint: Write, as_gguf: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(tekken()))
    named = metadata(read_tekken(tmp_path / "tekken.json").tokenizer(), "pixtral", bos_token_id=1)
    path = as_gguf(tiny_checkpoint(), metadata=named)
    found, _ = built(path)
    expected = Tekkenizer.from_file(tmp_path / "tekken.json")
    for text in (*SENTENCES.values(), *MIXED_CASE):
        assert found.encode(text).ids == expected.encode(text, bos=True, eos=False), text
    assert f"{path}: has a wrong split regex" in capsys.readouterr().err


@pytest.mark.slow
def test_smollm2_reads_as_transformers_reads_its_vocabulary(shared: Path) -> None:
    folder = shared / "models" / "smollm2-135m-instruct"
    path = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    found, adds_start = built(path)
    assert not adds_start
    witness = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    witness.backend_tokenizer.pre_tokenizer = smollm()
    texts = (*PROBE_TEXTS, *SENTENCES.values(), "<|im_start|>user\n12 eggs<|im_end|>\n")
    for text in texts:
        tokens = witness.encode(text, add_special_tokens=False)
        assert found.encode(text).ids == tokens, text
        assert found.decode(tokens) == witness.decode(tokens, skip_special_tokens=True), text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pre": "qwen35"},
            r"tokenizer\.ggml\.pre is 'qwen35', expected one of deepseek-r1-qwen, de",
        ),
        (
            {"tokens": None},
            r"tokenizer\.ggml\.tokens is missing or empty, expected a list of texts; convert it again$",
        ),
        (
            {"merges": None},
            r"tokenizer\.ggml\.merges is missing, expected a list of texts; convert it again$",
        ),
        ({"token_type": [1]}, "has 1505 tokens, 1 token_type, expected as many of each"),
        (
            {"bos_token_id": None},
            "bos_token_id is None, expected one of 1505 tokens, since prompt",
        ),
        ({"bos_token_id": 1505}, "bos_token_id is 1505, expected one of 1505 tokens"),
        ({"merges": ["a zz"]}, r"merges cannot be used \(.*`zz`.*\), expected merges of its tok"),
        (
            {"tokens": ["!"] * 1505},
            "tokens 0 and 1 are both '!', expected each token once; export the folder that it was "
            "converted from, with its tokenizer.json$",
        ),
    ],
)
def test_tokenizer_that_cannot_be_built_is_refused(
    tiny_checkpoint: Write, as_gguf: Write, changes: dict[str, Any], message: str
) -> None:
    path = as_gguf(
        tiny_checkpoint(), metadata=metadata(source("llama-bpe"), "llama-bpe", **changes)
    )
    with pytest.raises(CheckpointError, match=rf"^{path}: .*{message}"):
        built(path)
