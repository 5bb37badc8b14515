"""A GGUF header that claims more than its file holds is refused before anything is allocated."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from tramontane.export.formats.gguf.file import read_gguf
from tramontane.runtime.errors import CheckpointError

U8, U32, STRING, ARRAY = 0, 4, 8, 9


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


def header(*keys: bytes, num_keys: int | None = None, num_tensors: int = 0) -> bytes:
    count = len(keys) if num_keys is None else num_keys
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, count) + b"".join(keys)


def key(kind: int, value: bytes) -> bytes:
    return text("a") + struct.pack("<I", kind) + value


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return key(ARRAY, struct.pack("<IQ", kind, count) + content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(array(U8, 2**40)), "1099511627776 entries of a list, expected at most 0"),
        (header(array(STRING, 2**40)), "1099511627776 entries of a list, expected at most 0"),
        (header(array(STRING, 1, struct.pack("<Q", 2**40))), "1099511627776 bytes of a text"),
        (header(array(ARRAY, 1)), "a list of lists, expected lists of numbers or texts"),
        (header(array(99, 1)), "a value of type 99, expected types 0 to 12"),
        (header(key(99, b"")), "a value of type 99"),
        (
            header(struct.pack("<Q", 2**63) + b"\0" * 9),
            "9223372036854775808 bytes of a key's name",
        ),
        (header(num_keys=2**40), "1099511627776 keys, expected at most 0"),
        (header(num_tensors=2**40), "1099511627776 tensors, expected at most 0"),
        (header(key(U32, b"\0\0")), "the end of the file"),
        (
            header(num_tensors=1) + text("t") + struct.pack("<I", 2**31) + b"\0" * 99,
            "2147483648 dimensions, expected at most 4",
        ),
    ],
)
def test_a_claim_beyond_the_file_is_named_at_once(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=rf"a\.gguf: unreadable \(byte \d+ .*{said}"):
        read_gguf(tmp_path / "a.gguf")
    assert time.perf_counter() - start < 1


def test_what_a_whole_header_says_is_read(tmp_path: Path) -> None:
    keys = (array(U8, 3, b"abc"), text("b") + struct.pack("<I", STRING) + text("c"))
    (tmp_path / "a.gguf").write_bytes(header(*keys) + b"\0" * 64)
    assert read_gguf(tmp_path / "a.gguf").metadata["b"] == "c"
