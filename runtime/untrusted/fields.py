"""Decodes parsed JSON into the types that our dataclasses declare; errors name the field."""

from __future__ import annotations

import dataclasses
import operator
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import ContractError, printable

T = TypeVar("T")

_SHOWN = 80  # characters of a value in a message
_LARGEST = 2**63  # graphs have sizes of 64 bits
_NAMES: dict[Any, str] = {
    bool: "true or false",
    float: "a finite number",
    int: "a whole number below 2**63",
    str: "a text",
    type(None): "null",
}

_BITS = 14_000  # of a whole number that is shown; Python refuses to write those beyond 4300 digits


class _Repr(reprlib.Repr):
    def repr_int(self, value: int, level: int) -> str:
        bits = value.bit_length()
        if bits > _BITS:
            return f"<a whole number of {bits} bits>"
        return super().repr_int(value, level)


_SHORT = _Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN


def shown(value: object) -> str:
    """A value as messages print it: printable, on one line, cut where it is long."""
    return printable(_SHORT.repr(value), most=_SHOWN)


def whole_number(value: Any, *, what: str, expected: str, least: int = 0) -> int:
    """A caller's number, if it is whole and large enough.

    Raises:
        ContractError: it is not; the message says what it is and what is expected.

    >>> whole_number(3, what="count", expected="0 or more")
    3
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ContractError(
            f"{what} is {shown(value)}; expected a whole number, {expected}"
        ) from None
    if number < least:
        raise ContractError(f"{what} is {shown(value)}; expected {expected}")
    return number


def decode(kind: Any, value: object, *, where: str) -> Any:
    """A value as the type that is expected of it.

    Args:
        kind: bool, int, float, str, None, Any, a union of them, a list, a tuple of one type, a
            dict by str, a dataclass, or a TypedDict, which may hold more than it declares.
        value: parsed JSON.
        where: the field, for messages; empty for the document.

    Raises:
        ContractError: it is of another type; a field is missing, or unknown to a dataclass.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = _fitting(typing.get_args(kind), value)
    if kind is Any:
        return value
    if kind in _NAMES:
        if not _is(kind, value):
            raise ContractError(f"{where} is {shown(value)}, expected {_NAMES[kind]}")
        return value
    if typing.get_origin(kind) in (list, tuple):
        return _listed(kind, _checked(list, value, where), where)
    if dataclasses.is_dataclass(kind) and type(value) is kind:  # decoded before
        return value
    return _named(kind, _checked(dict, value, where), where)


def _listed(kind: Any, found: list[Any], where: str) -> Any:
    inner = typing.get_args(kind)[0]
    return typing.get_origin(kind)(
        decode(inner, each, where=f"{where}[{place}]") for place, each in enumerate(found)
    )


def _named(kind: Any, found: dict[str, Any], where: str) -> Any:
    """An object as a dict by str, a TypedDict or a dataclass."""
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        return {key: decode(inner, each, where=_within(where, key)) for key, each in found.items()}
    known = typing.get_type_hints(kind)
    decoded = {
        key: decode(known.get(key, Any), each, where=_within(where, key))
        for key, each in found.items()
    }
    if typing.is_typeddict(kind):
        _refuse_missing(kind.__required_keys__, found, where)
        return decoded
    if unknown := sorted(found.keys() - known.keys()):
        raise ContractError(
            f"{_within(where, unknown[0])} is unknown, expected {', '.join(sorted(known))}"
        )
    required = (
        each.name
        for each in dataclasses.fields(kind)
        if each.default is each.default_factory is dataclasses.MISSING
    )
    _refuse_missing(frozenset(required), found, where)
    return kind(**decoded)


def _fitting(kinds: tuple[Any, ...], value: object) -> Any:
    """The member of a union that a value may be; where none fits, the first is expected."""
    return next((kind for kind in kinds if kind in _NAMES and _is(kind, value)), kinds[0])


def _refuse_missing(required: frozenset[str], found: Mapping[str, Any], where: str) -> None:
    if missing := sorted(required - found.keys()):
        raise ContractError(f"{_within(where, missing[0])} is missing, expected a value")


def _checked(kind: type[T], value: object, where: str) -> T:
    if not isinstance(value, kind):
        name = "an object" if kind is dict else "a list"
        raise ContractError(f"{where} is {shown(value)}, expected {name}")
    return value


def _is(kind: Any, value: object) -> bool:
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max  # false of NaN as well
    if kind is int:
        return type(value) is int and -_LARGEST < value < _LARGEST
    return type(value) is kind


def _within(where: str, key: str) -> str:
    name = key if key.isidentifier() else shown(key)
    return f"{where}.{name}" if where else name
