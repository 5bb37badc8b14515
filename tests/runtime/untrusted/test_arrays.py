"""Is every damage of numpy's npz files one typed error, whatever numpy and zipfile raise?"""

from __future__ import annotations

import contextlib
import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tramontane.fuzz.mutations import apply, draw_mutations
from tramontane.runtime.errors import ContractError, GraphError
from tramontane.runtime.untrusted.arrays import parse_arrays, read_arrays

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(["x", "yz"])}


def packed(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays)
    return out.getvalue()


def with_method(content: bytes, method: int) -> bytes:
    """The first member has another way of compression."""
    changed = bytearray(content)
    central = content.index(b"PK\x01\x02")
    changed[8], changed[central + 10] = method, method
    return bytes(changed)


def test_arrays_come_back_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(packed(**ARRAYS))
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def bomb() -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, a=np.zeros(10**6))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "File is not a zip file"),
        (b"\x93NUMPY\x01\x00", "File is not a zip file"),
        (packed(**ARRAYS)[:-30], "File is not a zip file"),
        (with_method(packed(**ARRAYS), 99), "That compression method is not supported"),
        (packed(**ARRAYS).replace(b"fortran", b"fortrun"), "a.npz: no arrays can be read"),
        (bomb(), "8000128 bytes in a file of [0-9]+,"),
    ],
    ids=["empty", "an array", "cut off", "compression", "header", "bomb"],
)
def test_what_is_no_file_of_arrays_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=f"{said.rstrip(',')}.*expected numpy's npz; mend it$"):
        read_arrays(path, error=GraphError, remedy="mend it")
    with pytest.raises(ContractError, match=r"^it: no arrays can be read .*; remove it$"):
        parse_arrays(content, what="it")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.savez(out, a=np.array([{}], dtype=object))
    with pytest.raises(ContractError, match="Object arrays cannot be loaded"):
        parse_arrays(out.getvalue(), what="it")


def test_a_shape_beyond_memory_is_named() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        header = io.BytesIO()
        described = {"descr": "<f8", "fortran_order": False, "shape": (2**58,)}
        np.lib.format.write_array_header_1_0(header, described)
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(ContractError, match="no arrays can be read"):
        parse_arrays(content.getvalue(), what="it")


def test_a_folder_or_nothing_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="not a regular file"):
        read_arrays(tmp_path)
    with pytest.raises(ContractError, match="No such file"):
        read_arrays(tmp_path / "none")


def test_a_mutated_file_is_read_or_refused() -> None:
    content = packed(**ARRAYS)
    for number in range(2000):
        draw = random.Random(number)
        mutated = apply(content, draw_mutations(draw, len(content)))
        with contextlib.suppress(ContractError):
            parse_arrays(mutated, what="it")
