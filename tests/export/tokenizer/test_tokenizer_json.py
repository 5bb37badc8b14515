"""Does the tokenizer that other runtimes read cut text as SentencePiece does?"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Tokenizer, decoders
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.tokenizer.tokenizer_json import (
    NotExpressible,
    TokenizerJson,
    first_difference,
)
from tramontane.runtime.tokenizers.sentencepiece import SentencePiece
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

KIND: Any = proto.ModelProto.SentencePiece
VOCABULARY = Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True)
POSITIONS = 4096
NUM_RANDOM = 400  # texts for each tokenizer
SCRIPTS = (
    "abc XYZ 019", "  \t\n\r\u00a0\u3000\u200b", "äßéñø", "абвгд", "日本語中文", "العربية", "हिन्दी",
    "🙂👩👧\u200d\ufe0f", "e\u0301\u0302", "\u2581 ", "<s></s><unk><0x0A>", "([{<>}])=+-*/#", "\x00\x01\x7f",
)  # fmt: skip


@pytest.fixture(params=["stdlib-5m", "stories260K", "stories15M"], scope="module")
def model(request: pytest.FixtureRequest, stdlib_5m: Path) -> bytes:
    """Models of three makes: spaces kept or stripped, 512 to 32000 pieces."""
    if request.param == "stdlib-5m":
        return (stdlib_5m / "tokenizer.model").read_bytes()
    shared: Path = request.getfixturevalue("shared")
    return (shared / "models" / request.param / "tokenizer.model").read_bytes()


@pytest.fixture
def own(stdlib_5m: Path) -> bytes:
    return (stdlib_5m / "tokenizer.model").read_bytes()


def processor(model: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def made(model: bytes, *, reads_control: bool = False, **changes: Any) -> TokenizerJson:
    vocabulary = Vocabulary(**{**_fields(VOCABULARY), **changes})
    return TokenizerJson(model, vocabulary, reads_control=reads_control)


def _fields(vocabulary: Vocabulary) -> dict[str, Any]:
    return {name: getattr(vocabulary, name) for name in vocabulary.__slots__}


def in_transformers(tokenizer: TokenizerJson, folder: Path) -> Any:
    """Read both files back as users of transformers do."""
    (folder / "tokenizer.json").write_text(tokenizer.tokenizer().to_str(), encoding="utf-8")
    settings = json.dumps(tokenizer.settings(max_positions=POSITIONS))
    (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    return transformers.AutoTokenizer.from_pretrained(folder)


def random_texts(count: int) -> list[str]:
    """Characters of one to four scripts, and runs of one; seeded."""
    chance = random.Random(0)
    texts = []
    for _ in range(count):
        pool = "".join(chance.sample(SCRIPTS, chance.randint(1, 4)))
        pieces = [chance.choice(pool) * chance.choice((1, 1, 1, 2, 9)) for _ in range(40)]
        texts.append("".join(pieces[: chance.randint(0, 40)]))
    return texts


def test_hard_strings_are_many_and_all_different() -> None:
    assert len(PROBE_TEXTS) > 50
    assert len(set(PROBE_TEXTS)) == len(PROBE_TEXTS)


@pytest.mark.slow
@pytest.mark.situation("`tokenizer.model` of SentencePiece", package="sentencepiece")
@pytest.mark.parametrize("reads_control", [False, True])
def test_hard_strings_are_read_and_written_as_sentencepiece_does(
    model: bytes, reads_control: bool
) -> None:
    tokenizer = made(model, reads_control=reads_control).tokenizer()
    assert first_difference(tokenizer, SentencePiece(model)) is None


def test_random_strings_of_many_scripts_are_read_and_written_as_sentencepiece_does(
    model: bytes,
) -> None:
    tokenizer, texts = made(model).tokenizer(), random_texts(NUM_RANDOM)
    assert first_difference(tokenizer, SentencePiece(model), texts) is None


@pytest.mark.slow
def test_transformers_reads_and_writes_as_sentencepiece_does(model: bytes, tmp_path: Path) -> None:
    theirs, expected = in_transformers(made(model), tmp_path), processor(model)
    for text in (*PROBE_TEXTS, *random_texts(NUM_RANDOM // 4)):
        ids = expected.encode(text)
        assert theirs(text)["input_ids"] == [1, *ids], text
        assert theirs.decode([1, *ids, 2], skip_special_tokens=True) == expected.decode(ids), text


def test_transformers_knows_start_end_and_length(own: bytes, tmp_path: Path) -> None:
    theirs = in_transformers(made(own), tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    assert theirs.model_max_length == POSITIONS
    assert len(theirs) == processor(own).vocab_size()


@pytest.mark.parametrize(
    "changes", [{"add_bos_token": False}, {"bos_token_id": None, "add_bos_token": False}], ids=str
)
def test_prompts_begin_with_the_start_token_only_where_the_vocabulary_says_so(
    own: bytes, tmp_path: Path, changes: dict[str, Any]
) -> None:
    ids = processor(own).encode("def f(x):")
    assert made(own).tokenizer().encode("def f(x):").ids == [1, *ids]
    tokenizer = made(own, **changes)
    assert tokenizer.tokenizer().encode("def f(x):").ids == ids
    assert in_transformers(tokenizer, tmp_path)("def f(x):")["input_ids"] == ids


@pytest.mark.slow
@pytest.mark.parametrize("text", ["</s>", "x</s>y", "<s>hello</s>", "say <unk> now"])
def test_text_that_spells_a_control_token_stays_text(
    model: bytes, tmp_path: Path, text: str
) -> None:
    tokenizer, expected = made(model), processor(model).encode(text)
    assert not {1, 2} & set(expected)
    assert tokenizer.tokenizer().encode(text, add_special_tokens=False).ids == expected
    assert in_transformers(tokenizer, tmp_path)(text)["input_ids"] == [1, *expected]


@pytest.mark.slow
def test_text_that_spells_a_control_token_becomes_it_where_chat_templates_ask(
    model: bytes, tmp_path: Path
) -> None:
    tokenizer = made(model, reads_control=True)
    found = tokenizer.tokenizer().encode("x</s>y")
    assert found.ids.count(2) == 1
    theirs = in_transformers(tokenizer, tmp_path)
    assert theirs("x</s>y")["input_ids"] == found.ids
    assert "</s>" not in theirs.decode(found.ids, skip_special_tokens=True)


@pytest.mark.slow
def test_two_runs_write_the_same_text(model: bytes) -> None:
    texts = {made(model).tokenizer().to_str() for _ in range(2)}
    assert len(texts) == 1
    (text,) = texts
    assert Tokenizer.from_str(text).to_str() == text


def changed(tokenizer: Tokenizer, change: Callable[[dict[str, Any]], object]) -> Tokenizer:
    content = json.loads(tokenizer.to_str())
    change(content)
    return Tokenizer.from_str(json.dumps(content))


def swap_merges(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


def drop_prefix(content: dict[str, Any]) -> None:
    rules = content["normalizer"]["normalizers"]
    rules[:] = [rule for rule in rules if rule["type"] != "Prepend"]


def drop_last_piece(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    last = "".join(merges[-1])
    merges[:] = [merge for merge in merges if "".join(merge) != last]


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "two merges swapped": swap_merges,
    "merges of one piece missing": drop_last_piece,
    "no normalizer": lambda content: content.update(normalizer=None),
    "no space in front": drop_prefix,
    "no bytes": lambda content: content["model"].update(byte_fallback=False),
    "cut at spaces": lambda content: content["pre_tokenizer"]["pattern"].update(Regex="[a-z]+"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found_and_named_by_the_text_that_shows_it(
    model: bytes, fault: str
) -> None:
    expected = processor(model)
    found = changed(made(model).tokenizer(), FAULTS[fault])
    difference = first_difference(found, SentencePiece(model))
    assert difference is not None
    assert difference.endswith(" in SentencePiece")
    pieces = [expected.id_to_piece(i).replace("\u2581", " ") for i in range(len(expected))]
    text = next(
        text for text in (*PROBE_TEXTS, *pieces) if difference.startswith(f"{text!r} is [")
    )
    assert found.encode(text, add_special_tokens=False).ids != expected.encode(text)


def test_planted_decoder_is_found_and_named_by_the_tokens_that_show_it(own: bytes) -> None:
    found = made(own).tokenizer()
    found.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
    ids = processor(own).encode("a")
    assert first_difference(found, SentencePiece(own)) == f"{ids} is ' a', not 'a'"


def test_text_that_holds_a_token_which_the_publisher_reads_is_passed_over(own: bytes) -> None:
    found = made(own, reads_control=True).tokenizer()
    assert first_difference(found, SentencePiece(own), ["x</s>y"]) is None
    without = made(own).tokenizer()
    assert without.encode("x</s>y").ids != found.encode("x</s>y").ids


def piece(model: Any, text: str) -> Any:
    return next(each for each in model.pieces if each.piece == text)


def tie_scores(model: Any) -> None:
    piece(model, "re").score = piece(model, "in").score


UNSAYABLE: dict[str, tuple[Callable[[Any], object], str]] = {
    "unigram": (
        lambda m: setattr(m.trainer_spec, "model_type", proto.TrainerSpec.UNIGRAM),
        "its kind is not SentencePiece's BPE",
    ),
    "charsmap": (
        lambda m: setattr(m.normalizer_spec, "precompiled_charsmap", b"\x00"),
        "it changes characters, by a map of its own",
    ),
    "charsmap back": (
        lambda m: setattr(m.denormalizer_spec, "precompiled_charsmap", b"\x00"),
        "it changes characters, by a map of its own",
    ),
    "spaces kept": (
        lambda m: setattr(m.normalizer_spec, "escape_whitespaces", False),
        "it writes spaces in another way",
    ),
    "spaces behind": (
        lambda m: setattr(m.trainer_spec, "treat_whitespace_as_suffix", True),
        "it writes spaces in another way",
    ),
    "user's": (
        lambda m: setattr(piece(m, "re"), "type", KIND.USER_DEFINED),
        "it has user-defined pieces, such as 're', which SentencePiece never splits",
    ),
    "unused": (
        lambda m: setattr(piece(m, "re"), "type", KIND.UNUSED),
        "it merges 're' and, since that is unused, cuts it again",
    ),
    "one score": (tie_scores, "'in' and 're' have one score: the leftmost merges first"),
}


@pytest.mark.parametrize("what", UNSAYABLE)
def test_what_the_format_has_no_words_for_is_named(own: bytes, what: str) -> None:
    change, message = UNSAYABLE[what]
    content: Any = proto.ModelProto.FromString(own)
    change(content)
    with pytest.raises(NotExpressible) as refusal:
        made(content.SerializeToString())
    assert str(refusal.value) == message


def test_unused_piece_that_nothing_merges_into_is_no_obstacle(own: bytes) -> None:
    content: Any = proto.ModelProto.FromString(own)
    content.pieces.add(piece="<unused>", score=0, type=KIND.UNUSED)
    model = content.SerializeToString()
    assert first_difference(made(model).tokenizer(), SentencePiece(model)) is None
