"""The wrong split regex of Mistral's 2025 releases is found and corrected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tramontane.export.published_tokenizer.byte_level.agreement import MIXED_CASE
from tramontane.export.published_tokenizer.byte_level.mistral_split_regex import (
    correct_split_regex,
)
from tramontane.export.published_tokenizer.byte_level.pre_tokenizers import LLAMA_3, split_by
from tramontane.export.published_tokenizer.byte_level.tekken import Tekken, read_tekken
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.runtime.errors import CheckpointError

from .scripts import SENTENCES, START, tekken, trained

PUBLISHED = Path("folder/tokenizer.json")
TEXTS = (*PROBE_TEXTS, *SENTENCES.values(), *MIXED_CASE)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(tekken("v11", START)))
    return path


def wrong(beside: Path) -> Tokenizer:
    """A file as those of 2025: right but for the split regex."""
    found = read_tekken(beside).tokenizer()
    found.pre_tokenizer = split_by(LLAMA_3)
    return Tokenizer.from_str(found.to_str())


def encoded(found: Tokenizer) -> list[list[int]]:
    found.encode_special_tokens = True
    return [found.encode(text).ids for text in TEXTS]


def expected(beside: Path) -> list[list[int]]:
    reference = Tekkenizer.from_file(beside)
    return [reference.encode(text, bos=True, eos=False) for text in TEXTS]


@pytest.mark.situation(
    "`tokenizer.json` with the wrong split regex of Mistral's 2025 releases, with or without `tekken.json`",
    package="mistral-common",
)
@pytest.mark.parametrize("is_beside", [False, True])
def test_wrong_split_regex_is_corrected_to_what_mistral_common_does(
    beside: Path, capsys: pytest.CaptureFixture[str], is_beside: bool
) -> None:
    published = wrong(beside)
    assert encoded(published) != expected(beside)
    other = read_tekken(beside) if is_beside else None
    assert correct_split_regex(published, path=PUBLISHED, tekken=other)
    assert encoded(Tokenizer.from_str(published.to_str())) == expected(beside)
    why = "tekken.json beside it has another" if is_beside else "the vocabulary is Mistral's"
    said = capsys.readouterr().err
    assert f"{PUBLISHED}: has a wrong split regex, since {why}" in said
    assert "corrected: its splits were ['eBay'], and are ['e', 'Bay']\n" in said
    assert not correct_split_regex(published, path=PUBLISHED, tekken=other)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_beside", [False, True])
def test_right_split_regex_is_left_alone(
    beside: Path, capsys: pytest.CaptureFixture[str], is_beside: bool
) -> None:
    published = read_tekken(beside).tokenizer()
    before = published.to_str()
    other = read_tekken(beside) if is_beside else None
    assert not correct_split_regex(published, path=PUBLISHED, tekken=other)
    assert published.to_str() == before
    assert capsys.readouterr().err == ""


def _renamed(published: Tokenizer) -> Tokenizer:
    return Tokenizer.from_str(published.to_str().replace('"<unk>"', '"<|begin_of_text|>"'))


def _in_another_order(published: Tokenizer) -> Tokenizer:
    content = json.loads(published.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary["!"], vocabulary["#"] = vocabulary["#"], vocabulary["!"]
    return Tokenizer.from_str(json.dumps(content))


def _cut_at_spaces(published: Tokenizer) -> Tokenizer:
    published.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return published


@pytest.mark.parametrize("change", [_renamed, _in_another_order, _cut_at_spaces])
def test_llama_3s_split_regex_stays_where_the_vocabulary_or_the_regex_is_another(
    beside: Path, change: Callable[[Tokenizer], Tokenizer]
) -> None:
    published = change(wrong(beside))
    before = published.to_str()
    assert not correct_split_regex(published, path=PUBLISHED, tekken=None)
    assert published.to_str() == before


def test_other_vocabulary_beside_is_refused_by_its_first_token(beside: Path) -> None:
    content = tekken("v11", START)
    entry = content["vocab"][300]
    entry["token_bytes"] = "enp6eno="  # zzzzz, in place of another
    beside.write_text(json.dumps(content))
    other = read_tekken(beside)
    with pytest.raises(
        CheckpointError,
        match=r"^folder/tokenizer.json: 'zzzzz' is token None, and 340 in the tekken.json beside "
        "it, expected one tokenizer in both files; remove the file that is not the model's$",
    ):
        correct_split_regex(wrong_of(tekken("v11", START), beside), path=PUBLISHED, tekken=other)


def wrong_of(content: dict[str, object], beside: Path) -> Tokenizer:
    path = beside.with_name("other.json")
    path.write_text(json.dumps(content))
    return wrong(path)


def test_other_merges_beside_are_refused_by_the_first_text(beside: Path) -> None:
    content = json.loads(wrong(beside).to_str())
    content["model"]["merges"] = content["model"]["merges"][:1]
    content["model"]["ignore_merges"] = False
    published = Tokenizer.from_str(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: '.*' is \[.*\], and \[.*\] in the"
    ):
        correct_split_regex(published, path=PUBLISHED, tekken=read_tekken(beside))


def test_special_tokens_may_have_other_names_and_more_may_be_added(beside: Path) -> None:
    published = wrong(beside)
    published.add_special_tokens([AddedToken("<|im_start|>", special=True)])
    assert correct_split_regex(published, path=PUBLISHED, tekken=read_tekken(beside))
    assert published.token_to_id("<|im_start|>") == len(trained()) - 5 + 40


def test_tekken_is_found_by_its_bytes_as_well(beside: Path) -> None:
    found: Tekken = read_tekken(beside)
    assert found.tokens[:256] == tuple(bytes([byte]) for byte in range(256))
