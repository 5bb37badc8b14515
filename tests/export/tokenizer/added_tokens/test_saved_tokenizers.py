"""Tests of tokenizers with added tokens as transformers 4 and 5 save them: all readings agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.normalizers import Prepend, Replace, Sequence
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.export.tokenizer.write_tokenizer import write_tokenizer
from tramontane.runtime.tokenizers.sentencepiece import SPACE
from tramontane.runtime.tokenizers.vocabulary import SENTENCEPIECE
from tramontane.validate.tokenizer.check_tokenizer import TokenizerChecks, check_tokenizer

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
PAD = "<pad>"
CONTROL = ("<unk>", "<s>", "</s>")
TEXTS = (f"a{PAD}b", f" a {PAD} b", f"  {PAD}", " a", "a  b", f"{PAD}{PAD}user\nx")


@pytest.fixture
def saved(tiny_checkpoint: Write, tmp_path: Path) -> Callable[..., Path]:
    """Save a tokenizer with one added token by a class of transformers, with its model or not."""

    def save(
        architecture: str, name: str, *, legacy: bool | None, has_model: bool, **added: Any
    ) -> Path:
        folder = shutil.copytree(tiny_checkpoint(architecture, vocab_size=2064), tmp_path / "m")
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        settings = {"tokenizer_class": name, **named}
        settings |= {} if legacy is None else {"legacy": legacy}
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(settings))
        tokenizer = getattr(transformers, name).from_pretrained(folder)
        tokenizer.add_special_tokens({"pad_token": PAD, **added})
        tokenizer.save_pretrained(folder)
        if not has_model:
            (folder / "tokenizer.model").unlink()
        return folder

    return save


def as_in_4(folder: Path, *, legacy: bool | None, normalized: bool) -> None:
    """Rewrite both files as transformers 4 writes them: a normalizer puts the space in front."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = Sequence([Prepend(SPACE), Replace(" ", SPACE)])
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = None
    for one in content["added_tokens"]:
        one["normalized"] = normalized and one["content"] in CONTROL
    path.write_text(json.dumps(content))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_bytes())
    settings["added_tokens_decoder"] = {
        str(one["id"]): {name: one[name] for name in one if name != "id"}
        for one in content["added_tokens"]
    }
    settings |= {} if legacy is None else {"legacy": legacy}
    path.write_text(json.dumps(settings))


def checks(folder: Path, out: Path) -> tuple[CheckpointTokenizer, TokenizerChecks]:
    """Write the artifact's files, and compare all readings of them."""
    checkpoint = Checkpoint.open(folder)
    own = CheckpointTokenizer.read(checkpoint)
    out.mkdir()
    write_tokenizer(checkpoint, out, own.vocabulary)
    found = check_tokenizer(out, own.vocabulary, checkpoint)
    assert [one.failures for one in found.checks if one.failures] == []
    written = Tokenizer.from_file(str(out / "tokenizer.json"))
    for text in TEXTS:
        ids = own.codec.encode(text, allow_special=True)
        assert written.encode(text, add_special_tokens=False).ids == ids, text
    return own, found


@pytest.mark.situation(
    "a Llama or Mistral with an added token as transformers 4 saved it", package="transformers"
)
@pytest.mark.parametrize("normalized", [False, True], ids="normalized {}".format)
@pytest.mark.parametrize("has_model", [True, False], ids=["model and json", "json alone"])
@pytest.mark.parametrize("legacy", [None, False, True], ids="legacy {}".format)
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MistralForCausalLM"])
def test_what_transformers_4_saved_has_the_same_tokens_everywhere(
    saved: Callable[..., Path],
    tmp_path: Path,
    architecture: str,
    legacy: bool | None,
    has_model: bool,
    normalized: bool,
) -> None:
    folder = saved(architecture, "LlamaTokenizer", legacy=legacy, has_model=has_model)
    as_in_4(folder, legacy=legacy, normalized=normalized)
    own, found = checks(folder, tmp_path / "out")
    if has_model and architecture == "LlamaForCausalLM":
        assert own.vocabulary.kind == SENTENCEPIECE
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
        for text in TEXTS:
            ids = own.codec.encode(text, allow_special=True)
            assert theirs(text, add_special_tokens=False)["input_ids"] == ids, text
            assert again(text, add_special_tokens=False)["input_ids"] == ids, text
    shows = "decode '<unk>', '<s>', '</s>' to text though special, since normalized is true"
    has_normalizer = json.loads((tmp_path / "out" / "tokenizer.json").read_bytes())["normalizer"]
    is_noted = any(shows in note for note in found.notes)
    assert is_noted == bool(normalized and has_normalizer)


@pytest.mark.situation(
    "a Llama, Code Llama or Mistral with an added token as transformers 5 saves it",
    package="transformers",
)
@pytest.mark.parametrize("has_model", [True, False], ids=["model and json", "json alone"])
@pytest.mark.parametrize("legacy", [None, False, True], ids="legacy {}".format)
@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("LlamaForCausalLM", "LlamaTokenizer"),
        ("LlamaForCausalLM", "CodeLlamaTokenizer"),
        ("MistralForCausalLM", "LlamaTokenizer"),
    ],
)
def test_what_transformers_5_saves_has_the_same_tokens_everywhere(
    saved: Callable[..., Path],
    tmp_path: Path,
    architecture: str,
    name: str,
    legacy: bool | None,
    has_model: bool,
) -> None:
    checks(saved(architecture, name, legacy=legacy, has_model=has_model), tmp_path / "out")
