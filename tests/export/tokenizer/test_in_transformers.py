"""Is a tokenizer.json that transformers reads otherwise than it is named, with the first text?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import ExportOptions
from tramontane.export.planning.preflight import preflight
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS, around
from tramontane.export.tokenizer import in_transformers
from tramontane.export.tokenizer.in_transformers import note_of_transformers, read_rebuilt

from ...support.tiny_tokenizers import KINDS, save

Write = Callable[..., Path]
TEXTS = (*PROBE_TEXTS, "a  1", "12  34", "in 1984 there were  24 hours", "x = [1,  2,\n\t3]")


def spaced_digits() -> Tokenizer:
    """SmolLM2's rule for digits, and a token for two spaces, which it has too."""
    described = json.loads(KINDS["byte_level"]().to_str())
    content = described["model"]
    size = max(content["vocab"].values()) + 1
    content["vocab"]["ĠĠ"] = content["vocab"].get("ĠĠ", size + 20)
    if ["Ġ", "Ġ"] not in content["merges"]:
        content["merges"].append(["Ġ", "Ġ"])
    return Tokenizer.from_str(json.dumps(described))


MADE = {**KINDS, "spaced_digits": spaced_digits}


@pytest.fixture
def folder(tiny_checkpoint: Write) -> Callable[..., Path]:
    def make(kind: str, architecture: str = "LlamaForCausalLM", **settings: Any) -> Path:
        found = save(MADE[kind](), tiny_checkpoint(architecture, vocab_size=640))
        path = found / "tokenizer_config.json"
        content = {**json.loads(path.read_bytes()), **settings}
        kept = {name: value for name, value in content.items() if value is not None}
        path.write_text(json.dumps(kept))
        return found

    return make


CASES = [
    ("spaced_digits", "LlamaForCausalLM", {"tokenizer_class": "GPT2Tokenizer"}),
    ("spaced_digits", "LlamaForCausalLM", {"tokenizer_class": "LlamaTokenizer"}),
    ("spaced_digits", "LlamaForCausalLM", {"tokenizer_class": None}),
    ("spaced_digits", "MistralForCausalLM", {"tokenizer_class": "GPT2Tokenizer"}),
    ("llama_3", "LlamaForCausalLM", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ("llama_3", "LlamaForCausalLM", {"tokenizer_class": "GPT2TokenizerFast"}),
    ("like_sentencepiece", "LlamaForCausalLM", {"tokenizer_class": "LlamaTokenizer"}),
    (
        "like_sentencepiece",
        "LlamaForCausalLM",
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": True},
    ),
    (
        "like_sentencepiece",
        "LlamaForCausalLM",
        {"tokenizer_class": "LlamaTokenizer", "legacy": False},
    ),
    (
        "like_sentencepiece",
        "LlamaForCausalLM",
        {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False},
    ),
    ("like_sentencepiece", "MistralForCausalLM", {"tokenizer_class": "LlamaTokenizer"}),
]


@pytest.mark.slow
@pytest.mark.situation(
    "tokenizer.json of which transformers 5 takes the vocabulary alone: noted, and read as it is",
    package="transformers",
)
@pytest.mark.parametrize(("kind", "architecture", "settings"), CASES)
def test_note_names_the_first_text_that_transformers_reads_otherwise(
    folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    architecture: str,
    settings: dict[str, Any],
) -> None:
    path = folder(kind, architecture, **settings)
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    found = Tokenizer.from_file(str(path / "tokenizer.json"))
    monkeypatch.setattr(in_transformers, "_TEXTS", TEXTS)
    note = note_of_transformers(Checkpoint.open(path))
    added = [one.content for one in found.get_added_tokens_decoder().values()]
    for text in (*TEXTS, *around(added)):
        own = found.encode(text, add_special_tokens=False).ids
        other = theirs.encode(text, add_special_tokens=False)
        if own != other:
            assert note is not None
            assert note.startswith(f"{path / 'tokenizer.json'}: token ")
            assert f" of {text!r} is " in note
            assert str(settings["tokenizer_class"]) in note
            return
    assert note is None


@pytest.mark.slow
def test_texts_of_the_export_find_a_rule_for_digits_that_is_dropped(
    folder: Callable[..., Path],
) -> None:
    path = folder("spaced_digits", tokenizer_class="GPT2Tokenizer")
    note = note_of_transformers(Checkpoint.open(path))
    assert note is not None
    assert " of 'a  1' is " in note


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "architecture", "settings"), CASES)
def test_the_rebuilt_tokenizer_encodes_and_decodes_as_transformers(
    folder: Callable[..., Path], kind: str, architecture: str, settings: dict[str, Any]
) -> None:
    path = folder(kind, architecture, **settings)
    rebuilt = read_rebuilt(Checkpoint.open(path))
    if rebuilt is None:
        return
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    added = [one.content for one in rebuilt.get_added_tokens_decoder().values()]
    for text in (*TEXTS, *around(added)):
        ids = theirs.encode(text, add_special_tokens=False)
        assert rebuilt.encode(text, add_special_tokens=False).ids == ids, text
        assert rebuilt.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


def test_export_says_it_in_one_line(
    folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder("like_sentencepiece", tokenizer_class="LlamaTokenizer")
    preflight(path, tmp_path / "out", ExportOptions(quant="fp32", target="ort"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "transformers 5" in line]
    assert re.search(r"tokenizer\.json: .* set tokenizer_class to TokenizersBackend\)$", line)


def test_vocabulary_of_another_kind_is_read_as_it_is_and_needs_no_note(
    folder: Callable[..., Path],
) -> None:
    for kind in ("unigram", "word_pieces"):
        path = folder(kind, tokenizer_class="LlamaTokenizer")
        assert note_of_transformers(Checkpoint.open(path)) is None
