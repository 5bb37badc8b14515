"""Is what is written piece by piece a safetensors file?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tramontane.export.synthesize import safetensors_stream
from tramontane.export.synthesize.safetensors_stream import TensorEntry, write_safetensors
from tramontane.runtime.errors import CheckpointError

ENTRIES = [
    TensorEntry(name="a", dtype="F32", shape=(3, 5)),
    TensorEntry(name="b", dtype="F16", shape=(7,)),
    TensorEntry(name="c", dtype="BF16", shape=(2, 2, 3)),
]


def content(entry: TensorEntry) -> bytes:
    return bytes(
        np.random.default_rng(len(entry.shape)).integers(0, 60, entry.num_bytes, np.uint8)
    )


def pieces(entry: TensorEntry) -> Iterator[memoryview]:
    whole = memoryview(content(entry))
    yield from (whole[:3], whole[3:])


def test_the_format_s_own_reader_finds_names_types_shapes_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, ENTRIES, pieces)
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["a", "b", "c"]
        assert file.metadata() == {"format": "pt"}
        for entry in ENTRIES:
            tensor = file.get_tensor(entry.name)
            assert tensor.dtype == types[entry.dtype]
            assert tuple(tensor.shape) == entry.shape
            assert bytes(tensor.flatten().view(torch.uint8).numpy()) == content(entry)


def test_the_format_s_own_writer_writes_as_many_bytes(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_safetensors(ours, ENTRIES[:1], pieces)
    tensor = torch.frombuffer(bytearray(content(ENTRIES[0])), dtype=torch.float32).reshape(3, 5)
    save_file({"a": tensor}, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_numbers_begin_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    for length in range(1, 9):
        entry = TensorEntry(name="n" * length, dtype="F32", shape=(1,))
        path = tmp_path / entry.name
        write_safetensors(path, [entry], pieces)
        assert path.stat().st_size % 8 == entry.num_bytes % 8
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_full_disk_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors_stream.os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(CheckpointError) as refusal:
        write_safetensors(tmp_path / "x", ENTRIES, lambda _: pytest.fail("computed"))
    assert str(refusal.value).startswith(f"{tmp_path / 'x'}: cannot be written (No space left")
    assert str(refusal.value).endswith("make room, or name another place")
