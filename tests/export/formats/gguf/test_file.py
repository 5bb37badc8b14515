"""Are GGUF files read, or refused with what is wrong with them?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.gguf.file import read_gguf
from tramontane.runtime.errors import CheckpointError

Write = Callable[..., Path]
QUERY = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blk.0.attn_q.bias": np.ones(64, np.float32)}, "bias is not zero"),
        ({QUERY: None}, r"attn_q\.weight is missing .*its metadata implies"),
        ({QUERY: np.ones((32, 64), np.float32)}, r"\(32, 64\), its metadata"),
        ({QUERY: np.ones((64, 64), np.int8)}, "is of type I8, expected one of"),
    ],
)
def test_tensor_that_the_metadata_does_not_imply_is_refused(
    tiny_checkpoint: Write,
    as_gguf: Write,
    tensors: dict[str, Any],
    message: str,
) -> None:
    path = as_gguf(tiny_checkpoint(), tensors=tensors)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 3, 20, 1000, 50_000, -1])
def test_truncated_file_is_named(tiny_checkpoint: Write, as_gguf: Write, size: int) -> None:
    path = as_gguf(tiny_checkpoint())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.gguf: unreadable .*download it again"):
        Checkpoint.open(path)


def test_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK" * 1000)
    with pytest.raises(CheckpointError, match="expected a whole GGUF file"):
        read_gguf(tmp_path / "a.gguf")


def test_file_cut_after_opening_is_named(tiny_checkpoint: Write, as_gguf: Write) -> None:
    path = as_gguf(tiny_checkpoint())
    checkpoint = Checkpoint.open(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.gguf: ends within output\.weight"):
        checkpoint.read("head.weight")


def test_file_of_a_machine_that_orders_bytes_otherwise_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    message = r"byte order of another .* convert it: gguf-convert-endian \S+a\.gguf native"
    with pytest.raises(CheckpointError, match=message):
        read_gguf(tmp_path / "a.gguf")


def test_type_that_the_package_does_not_know_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = bytearray((tmp_path / "a.gguf").read_bytes())
    name = content.index(b"token_embd.weight")
    at = name + len(b"token_embd.weight") + 4 + 2 * 8  # number of dimensions, and each of them
    content[at : at + 4] = (31).to_bytes(4, "little")  # Q4_0_4_4, which llama.cpp dropped
    (tmp_path / "a.gguf").write_bytes(content)
    message = r"type is unknown to gguf \d.* \(.*31.* is not .*\), expected one of F32, .*; install the newest"
    with pytest.raises(CheckpointError, match=message):
        read_gguf(tmp_path / "a.gguf")


def test_columns_that_blocks_do_not_divide_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    blocks = np.zeros((2, 34), np.uint8)
    writer.add_tensor("token_embd.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = bytearray((tmp_path / "a.gguf").read_bytes())
    at = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4
    content[at : at + 8] = (31).to_bytes(8, "little")
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"row size \(31\) is not a multiple of Q8_0 block"):
        read_gguf(tmp_path / "a.gguf")
