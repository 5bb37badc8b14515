"""Compares the counts in a GGUF file's header with the file's size, before the file is parsed.

The gguf package allocates and loops as the counts say: a file of 57 bytes may claim 2**40 numbers.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any

from ....runtime.contract import LARGEST
from ....runtime.errors import CheckpointError
from ...files.held_files import HeldFile

_STRING, _ARRAY = 8, 9
# Bytes of a value by its type. Source: ggml, docs/gguf.md, gguf_metadata_value_type.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MOST_KEYS, _MOST_TENSORS, _MOST_DIMENSIONS = 1 << 16, 1 << 20, 4
_MOST_ENTRIES = LARGEST["vocab_size"]
_MOST_TEXT_BYTES = 1 << 26


def refuse_unbounded(file: HeldFile) -> None:
    """Refuse a header that claims more than the file holds, or more than any model has.

    What is no GGUF file at all, or cut off, is left to the parser, whose errors say so.

    Raises:
        CheckpointError: naming what is claimed, and where.

    Source: ggml, docs/gguf.md, "File Structure".
    """
    if file.identity[2] < _Header.FIRST_BYTES:
        return
    with mmap.mmap(file.stream().fileno(), 0, access=mmap.ACCESS_READ) as content:
        header = _Header(content, file)
        if header.is_gguf:
            header.walk()


class _Header:
    """Walks over a header; nothing is kept."""

    FIRST_BYTES = 24  # magic, version, number of tensors, number of keys

    def __init__(self, content: mmap.mmap, file: HeldFile) -> None:
        self._content, self._file, self._place = content, file, self.FIRST_BYTES
        version = struct.unpack_from("<I", content, 4)[0]
        self._order = "<" if version & 0xFFFF else ">"  # versions are small numbers
        version = struct.unpack_from(f"{self._order}I", content, 4)[0]
        self.is_gguf = content[:4] == b"GGUF" and version in (2, 3)

    def walk(self) -> None:
        """Visit all keys and all headers of tensors."""
        tensors, keys = struct.unpack_from(f"{self._order}QQ", self._content, 8)
        self._refuse_more("keys", keys, _MOST_KEYS, least_bytes=13)
        self._refuse_more("tensors", tensors, _MOST_TENSORS, least_bytes=24)
        for _ in range(keys):
            self._skip_text("a key's name")
            self._skip_value(self._number("I"))
        for _ in range(tensors):
            self._skip_text("a tensor's name")
            dimensions = self._number("I")
            self._refuse_more("dimensions", dimensions, _MOST_DIMENSIONS, least_bytes=8)
            self._skip(dimensions * 8 + 12)

    def _skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip_text("a text")
        elif kind != _ARRAY:
            self._skip(self._size(kind))
        else:
            inner, count = self._number("I"), self._number("Q")
            if inner == _ARRAY:
                raise self._refusal("a list of lists", "lists of numbers or texts")
            least = 8 if inner == _STRING else self._size(inner)
            self._refuse_more("entries of a list", count, _MOST_ENTRIES, least_bytes=least)
            if inner == _STRING:
                for _ in range(count):
                    self._skip_text("a text")
            else:
                self._skip(count * least)

    def _size(self, kind: int) -> int:
        if kind not in _SIZES:
            raise self._refusal(f"a value of type {kind}", "types 0 to 12")
        return _SIZES[kind]

    def _skip_text(self, what: str) -> None:
        length = self._number("Q")
        self._refuse_more(f"bytes of {what}", length, _MOST_TEXT_BYTES, least_bytes=1)
        self._skip(length)

    def _number(self, kind: str) -> int:
        start = self._place
        self._skip(struct.calcsize(f"<{kind}"))
        found: tuple[Any, ...] = struct.unpack_from(f"{self._order}{kind}", self._content, start)
        return int(found[0])

    def _skip(self, size: int) -> None:
        if self._place + size > len(self._content):
            raise self._refusal("the end of the file", "the rest of its header")
        self._place += size

    def _refuse_more(self, what: str, count: int, most: int, *, least_bytes: int) -> None:
        """Refuse a count above ``most``, or one that needs more bytes than are left."""
        fitting = min(most, (len(self._content) - self._place) // least_bytes)
        if count > fitting:
            raise self._refusal(f"{count} {what}", f"at most {fitting}")

    def _refusal(self, found: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file}: unreadable (byte {self._place} of its header: {found}, expected "
            f"{expected}), expected a whole GGUF file of version 2 or 3; download it again"
        )
