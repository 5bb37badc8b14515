"""tekken.json as tokenizer.json: the tokens of mistral-common."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mistral_common
import pytest
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import Tokenizer
from tramontane.export.published_tokenizer.byte_level.tekken import read_tekken
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.runtime.errors import CheckpointError

from .scripts import NUM_SPECIAL, SENTENCES, START, tekken, trained

TEXTS = (*PROBE_TEXTS, *SENTENCES.values(), *(text * 3 for text in SENTENCES.values()))


def expect_equal(found: Tokenizer, expected: Tekkenizer, texts: tuple[str, ...] = TEXTS) -> None:
    """Both encode and decode alike; text that spells a special token is text."""
    found.encode_special_tokens = True
    for text in texts:
        tokens = expected.encode(text, bos=False, eos=False)
        assert found.encode(text, add_special_tokens=False).ids == tokens, text
        assert found.encode(text).ids == expected.encode(text, bos=True, eos=False), text
        assert found.decode(tokens) == expected.decode(tokens, SpecialTokenPolicy.IGNORE), text


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to_file(content: dict[str, Any]) -> Path:
        path = tmp_path / "tekken.json"
        path.write_text(json.dumps(content))
        return path

    return to_file


@pytest.mark.situation("`tekken.json` of every version", package="mistral-common")
@pytest.mark.parametrize(
    ("version", "special"),
    [
        ("v3", None),
        ("v7", None),
        ("v7", START),
        ("v11", (*START, "[ARGS]", "[CALL_ID]")),
        ("v13", (*START, "[THINK]", "[/THINK]")),
    ],
)
def test_every_version_of_the_format_encodes_as_mistral_common(
    write: Callable[..., Path], version: str, special: tuple[str, ...] | None
) -> None:
    path = write(tekken(version, special))
    found, expected = read_tekken(path).tokenizer(), Tekkenizer.from_file(path)
    assert found.get_vocab_size() == expected.n_words
    expect_equal(found, expected)
    for token in range(NUM_SPECIAL):
        text = expected.decode([token], SpecialTokenPolicy.KEEP)
        assert (found.token_to_id(text), found.id_to_token(token)) == (token, text)
        assert found.get_added_tokens_decoder()[token].special
        assert found.decode([token]) == ""


def test_every_token_alone_and_doubled_is_mistral_commons(write: Callable[..., Path]) -> None:
    path = write(tekken())
    found, expected = read_tekken(path).tokenizer(), Tekkenizer.from_file(path)
    for rank in range(len(trained()) - 5):
        token = rank + NUM_SPECIAL
        assert found.decode([token]) == expected.decode([token], SpecialTokenPolicy.IGNORE)
    texts = [token.decode(errors="ignore") for token in trained()]
    expect_equal(found, expected, tuple(f"{text}{text} {text}" for text in texts))


def test_what_is_written_reads_the_same(write: Callable[..., Path]) -> None:
    path = write(tekken())
    found = read_tekken(path).tokenizer().to_str()
    expect_equal(Tokenizer.from_str(found), Tekkenizer.from_file(path))


def test_special_tokens_in_text_are_one_token_where_a_template_asks_for_it(
    write: Callable[..., Path],
) -> None:
    found = read_tekken(write(tekken("v13", START))).tokenizer()
    ids = found.encode("[INST]eBay[/INST]</s>", add_special_tokens=False).ids
    assert (ids[0], ids[-2:]) == (3, [4, 2])


@pytest.mark.situation(
    "`tekken.json` of Mistral Nemo and Pixtral as Mistral published them",
    package="mistral-common",
)
@pytest.mark.slow
@pytest.mark.parametrize("published", ["240718", "240911"])
def test_published_files_of_mistral_encode_as_mistral_common(published: str) -> None:
    path = Path(mistral_common.__file__).parent / "data" / f"tekken_{published}.json"
    found, expected = read_tekken(path).tokenizer(), Tekkenizer.from_file(path)
    assert found.get_vocab_size() == expected.n_words == 131072
    assert found.token_to_id("[PREFIX]") == 14
    expect_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("vocab"), r"its keys are \['config'\], expected config and vocab"),
        (lambda c: c["config"].update(pattern=None), "config.pattern is None, expected a regular"),
        (
            lambda c: c["config"].update(pattern="[[(("),
            r"config.pattern is '\[\[\(\(', expected a regular expression \(.*char-class",
        ),
        (lambda c: c["config"].pop("default_vocab_size"), "default_vocab_size is missing"),
        (
            lambda c: c["config"].update(default_vocab_size=10**6),
            "default_vocab_size is 1000000, expected at least 40 special tokens and 256 bytes, and "
            r"at most \d+, all that it lists; download it again$",
        ),
        (lambda c: c["config"].update(version="3"), "version is '3', expected v and a number"),
        (
            lambda c: c["config"].update(version="v11"),
            r"special_tokens is None in version v11, expected a list \(only files up to v7 may",
        ),
        (
            lambda c: c["config"].update(default_num_special_tokens=4),
            "default_num_special_tokens is 4, expected at least 20, as many as special_tokens has",
        ),
        (
            lambda c: c["config"].update(default_num_special_tokens=10**12),
            r"default_num_special_tokens is 1000000000000, expected at most \d+, default_vocab_size",
        ),
        (
            lambda c: c["config"].update(default_vocab_size=10**12),
            r"vocab_size is 1000000000000; expected at most \d+",
        ),
        (lambda c: c.update(special_tokens=[]), "special_tokens lack <s>, expected that start"),
        (
            lambda c: c.update(special_tokens=[{"rank": 1, "token_str": "<s>"}]),
            "special token 0 is .*, expected rank 0 and token_str",
        ),
        (lambda c: c["vocab"][7].update(rank=9), "token 7 is .*, expected rank 7 and token_bytes"),
        (
            lambda c: c["vocab"][7].update(token_bytes="QQ=="),
            r"token 7 is b'A', expected the byte b'\\x07'",
        ),
        (
            lambda c: c["vocab"][300].update(token_bytes="?"),
            r"token 300 is '\?' \(.*\), expected base64;",
        ),
        (
            lambda c: c["vocab"][300].update(token_bytes="QQ=="),
            "'A' is there twice, expected each token once; download it again$",
        ),
    ],
)
def test_file_that_is_not_tekkens_is_refused(
    write: Callable[..., Path], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = tekken()
    change(content)
    with pytest.raises(CheckpointError, match=rf"^.*tekken\.json: .*{message}"):
        read_tekken(write(content))


def test_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tekken\.json: not JSON .*; download it again$"):
        read_tekken(tmp_path / "tekken.json")


def test_a_token_that_is_twice_in_a_large_file_is_found_at_once(
    write: Callable[..., Path],
) -> None:
    content, ordinary = tekken(), 60_000
    first = len(content["vocab"])
    names = [b"long-%d" % number for number in range(first, ordinary - 1)]
    content["vocab"] += [
        {"rank": first + i, "token_bytes": base64.b64encode(name).decode(), "token_str": None}
        for i, name in enumerate([*names, b"A"])
    ]
    special = content["config"]["default_num_special_tokens"]
    content["config"]["default_vocab_size"] = special + ordinary
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="'A' is there twice, expected each token once"):
        read_tekken(write(content))
    assert time.monotonic() - start < 10
