"""JSON that is deep, is no text or holds half characters ends in one typed line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tramontane.runtime.errors import CheckpointError, ContractError
from tramontane.runtime.untrusted import json_text
from tramontane.runtime.untrusted.json_text import json_lines, parse_json, parse_object


def test_json_is_parsed_as_the_standard_library_does() -> None:
    content = {"a": [1, 2.5, None, True, "Größe 😀", "\ud83d\ude00"], "b": {}}
    assert parse_object(json.dumps(content).encode(), what="x") == json.loads(json.dumps(content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON .*utf-8"),
        (b"9" * 5000, "not JSON .*4300"),
        (b"[" * 101 + b"]" * 101, "nested deeper than 100"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "nested deeper than 100"),
        (b"[" * 10**6, "not JSON"),
        (b"[" * 10**5 + b"]" * 10**5, "not JSON .*recursion"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
    ],
)
def test_other_content_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(CheckpointError, match=f"(?i)^x.json: .*{said}.*; copy it again") as found:
        parse_json(content, what="x.json", error=CheckpointError)
    assert len(str(found.value)) < 400


def test_nesting_up_to_the_limit_is_parsed() -> None:
    assert parse_json(b"[" * 100 + b"]" * 100, what="x")


def test_lines_that_are_no_json_are_left_out(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    lines = [b'["a", 1]', b"", b"\xff\0", b"[" * 10**5, b'"\\ud800"', b"{}", b'["b", 2']
    notes.write_bytes(b"\n".join(lines))
    assert list(json_lines(notes)) == [["a", 1], {}]


@pytest.mark.parametrize("content", [b"[]", b"1", b"null", b'"a"'])
def test_an_object_is_demanded(content: bytes) -> None:
    with pytest.raises(ContractError, match=r"^x: holds a \w+, expected an object"):
        parse_object(content, what="x")


@pytest.mark.parametrize("item", [b"[],", b"{},", b"1,", b'{"a":1},', b'"x",'])
def test_a_document_of_millions_of_values_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, item: bytes
) -> None:
    monkeypatch.setattr(json_text.json, "loads", None)
    content = b"[" + item * 5_000_001 + b"1]"
    with pytest.raises(
        ContractError, match=r"^it: [0-9]+ commas and brackets, expected at most 5000000; copy"
    ):
        parse_json(content, what="it")
