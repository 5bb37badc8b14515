"""Tests of the comparison of two readings, and of chat templates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tramontane.validate.tokenizer.check_tokenizer import FIGURE, KIND
from tramontane.validate.tokenizer.reading import Reading, differences
from tramontane.validate.tokenizer.templates import written_templates
from tramontane.validate.verdict import judged

LETTERS = Reading(
    file="a.json",
    program="none",
    encode=lambda text: [ord(one) for one in text],
    decode=lambda ids: "".join(map(chr, ids)),
    piece=chr,
    start=[1],
    end=[],
)


def found(**changes: object) -> list[str]:
    other = dataclasses.replace(LETTERS, **changes)  # type: ignore[arg-type]
    return [str(one) for one in differences(other, LETTERS, ["a", "bc"], size=3)]


def test_a_reading_equals_itself() -> None:
    assert LETTERS.name == "a.json, as none reads it"
    assert found() == []


def test_other_starts_ends_pieces_tokens_and_texts_are_differences() -> None:
    assert found(start=[]) == ["tokens in front of a prompt: found [], expected [1]"]
    assert found(end=[2]) == ["tokens behind a prompt: found [2], expected []"]
    assert found(piece=lambda one: "x" if one == 2 else None) == [
        "token 2: found 'x', expected '\\x02'"
    ]
    assert found(encode=lambda text: [7] * len(text)) == [
        "tokens of 'a': found [7], expected [97]",
        "tokens of 'bc': found [7, 7], expected [98, 99]",
    ]
    assert found(decode=lambda _: "x") == [
        "text of [97], which 'a' becomes: found 'x', expected 'a'",
        "text of [98, 99], which 'bc' becomes: found 'x', expected 'bc'",
    ]


def test_what_a_file_does_not_say_is_not_compared() -> None:
    assert found(start=None, end=None) == []
    assert found(encode=lambda _: None) == []


def test_the_label_of_the_figure_is_in_the_table_of_labels() -> None:
    check = judged(
        name="a.json", kind=KIND, figures={FIGURE: 2.0}, bounds={FIGURE: 0.0}, where="'a'"
    )
    assert check.failures == ("strings and tokens that differ 2 > 0 ('a')",)


def test_an_error_on_encoding_is_a_difference_unless_both_raise_it() -> None:
    def refuse(text: str) -> list[int]:
        raise ValueError("no token for it")

    assert found(encode=refuse)[0] == "tokens of 'a': found 'no token for it', expected [97]"
    both = dataclasses.replace(LETTERS, encode=refuse)
    assert list(differences(both, both, ["a"], size=0)) == []


def test_templates_are_found_in_every_place(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tools.jinja").write_text("t")
    (tmp_path / "chat_template.jinja").write_text("c")
    listed = [{"name": "rag", "template": "r"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert written_templates(tmp_path) == {
        "chat_template.jinja": b"c",
        "additional_chat_templates/tools.jinja": b"t",
        "tokenizer_config.json, chat_template 'rag'": b"r",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "d"}))
    assert written_templates(tmp_path)["tokenizer_config.json, chat_template"] == b"d"
