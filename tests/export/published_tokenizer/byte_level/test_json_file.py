"""tokenizer.json beside tekken.json or tiktoken's file: which is read, corrected or refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import AddedToken, Tokenizer
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.published_tokenizer.byte_level.bpe import ByteLevelBpe, merges_of, spell
from tramontane.export.published_tokenizer.byte_level.pre_tokenizers import LLAMA_3, split_by
from tramontane.export.published_tokenizer.byte_level.tekken import read_tekken
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer, read_vocabulary
from tramontane.export.tokenizer.write_tokenizer import AS_PUBLISHED, write_tokenizer
from tramontane.runtime.errors import CheckpointError
from tramontane.runtime.tokenizers.hugging_face import HuggingFace

from .scripts import NUM_SPECIAL, SENTENCES, START, tekken, trained

Write = Callable[..., Path]
TEXTS = (*PROBE_TEXTS, *SENTENCES.values())


@pytest.fixture
def mistral(tiny_checkpoint: Write) -> Path:
    """A folder with ``tekken.json`` alone."""
    folder = tiny_checkpoint(vocab_size=len(trained()) - 5 + NUM_SPECIAL)
    (folder / "tokenizer.model").unlink()
    (folder / "tekken.json").write_text(json.dumps(tekken("v11", (*START, "<pad>"))))
    return folder


def publish(folder: Path, *, pattern: str | None = None) -> bytes:
    """Put a ``tokenizer.json`` beside, with a split regex of its own."""
    found = read_tekken(folder / "tekken.json").tokenizer()
    if pattern is not None:
        found.pre_tokenizer = split_by(pattern)
    (folder / "tokenizer.json").write_text(found.to_str(pretty=True))
    return (folder / "tokenizer.json").read_bytes()


def write(folder: Path, out: Path) -> str:
    checkpoint = Checkpoint.open(folder)
    out.mkdir()
    return write_tokenizer(checkpoint, out, read_vocabulary(checkpoint))


def test_tekken_json_alone_is_read_and_written_as_tokenizer_json(
    mistral: Path, tmp_path: Path
) -> None:
    expected = Tekkenizer.from_file(mistral / "tekken.json")
    tokenizer = CheckpointTokenizer.read(Checkpoint.open(mistral))
    vocabulary = tokenizer.vocabulary
    assert (vocabulary.bos_token_id, vocabulary.add_bos_token) == (1, True)
    assert vocabulary.eos_token_ids == (2,)
    assert write(mistral, tmp_path / "out") == "made from tekken.json"
    written = HuggingFace((tmp_path / "out" / "tokenizer.json").read_bytes())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        tokens = expected.encode(text, bos=False, eos=False)
        assert tokenizer.codec.encode(text) == written.encode(text) == tokens, text
        if not any(special in text for special in START):
            assert theirs(text)["input_ids"] == [1, *tokens], text
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<s>", "</s>", "<pad>")


def test_tekken_json_of_mistrals_own_layout_is_read(
    mistral: Path, stdlib_5m: Path, as_mistral: Write
) -> None:
    (mistral / "tokenizer.model").write_bytes((stdlib_5m / "tokenizer.model").read_bytes())
    folder = as_mistral(mistral)
    (folder / "tokenizer.model").unlink()
    (mistral / "tekken.json").rename(folder / "tekken.json")
    checkpoint = Checkpoint.open(folder)
    assert folder / "tekken.json" in checkpoint.files
    vocabulary = read_vocabulary(checkpoint)
    assert (vocabulary.prompt_start, vocabulary.eos_token_ids) == ([1], (2,))


@pytest.mark.parametrize("is_beside", [False, True])
def test_wrong_split_regex_is_corrected_in_the_artifact_and_said_once(
    mistral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_beside: bool
) -> None:
    publish(mistral, pattern=LLAMA_3)
    expected = Tekkenizer.from_file(mistral / "tekken.json")
    if not is_beside:
        (mistral / "tekken.json").unlink()
    made = write(mistral, tmp_path / "out")
    assert made == "made from tokenizer.json, its split regex corrected"
    written = HuggingFace((tmp_path / "out" / "tokenizer.json").read_bytes())
    for text in (*TEXTS, "eBay mL pH"):
        assert written.encode(text) == expected.encode(text, bos=False, eos=False), text
    assert capsys.readouterr().err.count("has a wrong split regex") == 1


def test_right_split_regex_keeps_the_bytes_of_the_file(mistral: Path, tmp_path: Path) -> None:
    content = publish(mistral)
    assert write(mistral, tmp_path / "out") == AS_PUBLISHED
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == content


def test_tekken_json_of_another_model_is_refused(mistral: Path) -> None:
    publish(mistral)
    other = tekken("v11", START)
    other["vocab"][300]["token_bytes"] = base64.b64encode(b"zzzzz").decode()
    (mistral / "tekken.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="'zzzzz' is token None, and 340 in the tekken.json"):
        read_vocabulary(Checkpoint.open(mistral))


@pytest.fixture
def llama_3(tiny_checkpoint: Write) -> Path:
    """A folder with tiktoken's ``tokenizer.model`` and ``tokenizer.json``."""
    ranks = {token: rank for rank, token in enumerate(trained())}
    found = ByteLevelBpe(
        vocabulary={spell(token): rank for token, rank in ranks.items()},
        merges=merges_of(ranks),
        pre_tokenizer=split_by(LLAMA_3),
        is_whole_first=True,
        added=[AddedToken("<|begin_of_text|>", special=True, normalized=False)],
    ).tokenizer()
    folder = tiny_checkpoint("LlamaForCausalLM", vocab_size=len(ranks) + 1, eos_token_id=5)
    (folder / "tokenizer.json").write_text(found.to_str())
    lines = (b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    return folder


def test_tokenizer_json_is_read_where_tokenizer_model_is_tiktokens(
    llama_3: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(llama_3)
    assert llama_3 / "tokenizer.json" in checkpoint.files
    assert CheckpointTokenizer.read(checkpoint).vocabulary.kind == "tokenizers"
    assert write(llama_3, tmp_path / "out") == AS_PUBLISHED
    assert not (tmp_path / "out" / "tokenizer.model").exists()


def test_tiktoken_file_of_another_model_is_refused(llama_3: Path) -> None:
    lines = (llama_3 / "tokenizer.model").read_bytes().splitlines()
    lines[70] = base64.b64encode(b"zzzzz") + b" 70"
    (llama_3 / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(CheckpointError, match="'zzzzz' is token None, and 70 in tokenizer.model"):
        read_vocabulary(Checkpoint.open(llama_3))


def test_tokenizer_json_that_is_none_is_refused_where_it_is_opened(llama_3: Path) -> None:
    (llama_3 / "tokenizer.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer\.json \("):
        read_vocabulary(Checkpoint.open(llama_3))


def test_llama_3s_own_split_regex_stays(llama_3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = CheckpointTokenizer.read(Checkpoint.open(llama_3))
    published = Tokenizer.from_file(str(llama_3 / "tokenizer.json"))
    assert tokenizer.codec.encode("eBay") == published.encode("eBay").ids
    assert capsys.readouterr().err == ""
