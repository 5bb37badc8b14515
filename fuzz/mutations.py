"""Mutations of a file's content, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Mutation = Callable[[bytes], bytes]

_NUMBERS = (0, 1, 2**7, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_WORDS = (
    *(b"null", b"true", b"-1", b"1.5", b"1e30", b"1e400", b"NaN", b"1000000000000", b"9" * 5000),
    *(b'"x"', b'"\\ud800"', b'"\\u001b[31m\\n"', b"[]", b"{}", b"[[]]", b"[" * 2000, b"..", b"/"),
    *(b"\x00", b"\xff\xfe", b"\r\n", b"x" * 100_000, b"&a [*a]", b"2024-01-01"),
)
_VALUE_ENDS = b",}]\n"


def draw_mutations(draw: random.Random, size: int) -> list[Mutation]:
    """One to four mutations of a file of so many bytes."""
    return [draw.choice(_KINDS)(draw, max(size, 1)) for _ in range(draw.choice((1, 1, 1, 2, 4)))]


def apply(content: bytes, mutations: Sequence[Mutation]) -> bytes:
    """The content after all of them, one after the other."""
    for mutate in mutations:
        content = mutate(content)
    return content


def _flip(draw: random.Random, size: int) -> Mutation:
    place, value = draw.randrange(size), draw.randint(1, 255)

    def mutate(content: bytes) -> bytes:
        changed = bytearray(content)
        if place < len(changed):
            changed[place] ^= value
        return bytes(changed)

    return mutate


def _cut(draw: random.Random, size: int) -> Mutation:
    place = draw.randrange(size)
    return lambda content: content[:place]


def _remove(draw: random.Random, size: int) -> Mutation:
    place, count = draw.randrange(size), draw.choice((1, 2, 8, 64, 512))
    return lambda content: content[:place] + content[place + count :]


def _repeat(draw: random.Random, size: int) -> Mutation:
    place, count = draw.randrange(size), draw.choice((1, 8, 64, 512))
    return lambda content: content[: place + count] + content[place:]


def _number(draw: random.Random, size: int) -> Mutation:
    place, width = draw.randrange(size), draw.choice((4, 8))
    packed = (draw.choice(_NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
    return lambda content: content[:place] + packed + content[place + width :]


def _value(draw: random.Random, size: int) -> Mutation:
    """Replace what follows a colon, as a value of JSON or YAML does."""
    place, word = draw.randrange(size), draw.choice(_WORDS)

    def mutate(content: bytes) -> bytes:
        start = content.find(b":", place) + 1
        ends = [end for sign in _VALUE_ENDS if (end := content.find(bytes([sign]), start)) >= 0]
        return content[:start] + word + content[min(ends, default=start) :]

    return mutate


def _insert(draw: random.Random, size: int) -> Mutation:
    place, word = draw.randrange(size), draw.choice(_WORDS)
    return lambda content: content[:place] + word + content[place:]


_KINDS = (_flip, _flip, _cut, _remove, _repeat, _number, _value, _value, _insert)
