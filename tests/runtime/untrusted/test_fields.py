"""Parsed JSON becomes what dataclasses declare, or an error that names the field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

import pytest
from tramontane.runtime.errors import ContractError
from tramontane.runtime.untrusted.fields import decode, shown


@dataclass(frozen=True)
class Inner:
    """A part of a document."""

    size: int
    name: str | None = None


@dataclass(frozen=True)
class Outer:
    """A document with fields of every kind."""

    inner: tuple[Inner, ...]
    share: float
    is_whole: bool
    names: dict[str, str] = field(default_factory=dict)
    other: Any = None


class Open(TypedDict):
    """An object that may hold more."""

    size: int


VALID: dict[str, Any] = {
    "inner": [{"size": 1}, {"size": 2, "name": "b"}],
    "share": 1,
    "is_whole": True,
}


def test_a_document_becomes_its_dataclass() -> None:
    expected = Outer(inner=(Inner(1), Inner(2, "b")), share=1, is_whole=True)
    assert decode(Outer, VALID, where="") == expected


@pytest.mark.parametrize(
    ("field_", "value", "said"),
    [
        ("inner", {}, r"inner is {}, expected a list"),
        ("inner", [1], r"inner\[0\] is 1, expected an object"),
        ("inner", [{"size": "x"}], r"inner\[0\]\.size is 'x', expected a whole number"),
        ("inner", [{"size": True}], r"inner\[0\]\.size is True, expected a whole number"),
        ("inner", [{"size": 2**63}], r"inner\[0\]\.size is 9223372036854775808, expected"),
        ("inner", [{"size": 1, "name": 1}], r"inner\[0\]\.name is 1, expected a text"),
        ("inner", [{}], r"inner\[0\]\.size is missing"),
        ("inner", [{"size": 1, "more": 1}], r"inner\[0\]\.more is unknown, expected name, size"),
        ("share", "1", "share is '1', expected a finite number"),
        ("share", float("inf"), "share is inf, expected a finite number"),
        ("share", 10**400, "share is 1000"),
        ("is_whole", 1, "is_whole is 1, expected true or false"),
        ("names", {"a\n": 1}, r"names\.'a\\n' is 1, expected a text"),
    ],
)
def test_a_field_of_another_type_is_named(field_: str, value: object, said: str) -> None:
    with pytest.raises(ContractError, match=f"^{said}"):
        decode(Outer, {**VALID, field_: value}, where="")


def test_an_open_object_may_hold_more() -> None:
    assert decode(list[Open], [{"size": 1, "more": 2}], where="x") == [{"size": 1, "more": 2}]
    with pytest.raises(ContractError, match=r"x\[0\]\.size is missing"):
        decode(list[Open], [{"more": 2}], where="x")


@pytest.mark.parametrize(
    "value", ["x" * 10**6, "\x1b[31m\n", [["a"] * 99] * 99, 10**1000, (10**5000,)]
)
def test_a_value_is_shown_in_80_printable_characters(value: object) -> None:
    assert len(shown(value)) <= 80
    assert shown(value).isprintable()
