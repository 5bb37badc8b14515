"""Only regular files of a bounded size are read, and names of a manifest stay in its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tramontane.runtime.errors import CheckpointError, ContractError
from tramontane.runtime.untrusted.files import is_file, is_name_inside, read_file


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", most=5) == b"12345"


def test_a_larger_file_is_refused_and_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=r"sparse: is larger than 9 B, .*; download it"):
        read_file(tmp_path / "sparse", most=9, error=CheckpointError, remedy="download it")


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ContractError, match=r"fifo: cannot be read \(not a regular file\)"):
        read_file(tmp_path / "fifo", most=9)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300, "absent", "/dev/zero"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    assert not is_file(tmp_path / name)
    with pytest.raises(ContractError, match="cannot be read"):
        read_file(tmp_path / name, most=9)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/../b", "/etc/passwd", "a//b", "a/", "./a", "a\\b", "C:a", "a\nb"],
)
def test_a_name_outside_the_folder_is_known(name: str) -> None:
    assert not is_name_inside(name)


@pytest.mark.parametrize("name", ["a", "onnx/model.onnx_data", ".gitattributes", "a b/Größe"])
def test_a_name_inside_the_folder_is_known(name: str) -> None:
    assert is_name_inside(name)
