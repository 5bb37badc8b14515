"""Are the files of a GGUF model found whatever their names, and other models' refused?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import read_config
from tramontane.runtime.errors import CheckpointError, ConfigError

Write = Callable[..., Path]


@pytest.fixture
def parts(tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path) -> list[Path]:
    """The parts of a model, as the gguf package cuts it, in a folder of their own."""
    (tmp_path / "parts").mkdir()
    first = as_gguf(tiny_checkpoint(), split=8, name="parts/model.gguf")
    return sorted(first.parent.glob("*.gguf"))


def set_number(path: Path, key: str, value: int) -> None:
    """Overwrite a number of two or four bytes in a file's metadata."""
    reader = gguf.GGUFReader(path, "r+")
    reader.fields[key].parts[-1][:] = value
    reader.data.flush()


@pytest.mark.slow
@pytest.mark.situation(
    "GGUF model in numbered parts; any part or the folder is named", package="gguf"
)
@pytest.mark.parametrize("named", [0, 1, 2, None], ids="part {}".format)
def test_any_part_and_the_folder_are_the_whole_model(
    parts: list[Path], tiny_checkpoint: Write, as_gguf: Write, named: int | None
) -> None:
    whole = Checkpoint.open(as_gguf(tiny_checkpoint(), name="whole.gguf"))
    path = parts[0].parent if named is None else parts[named]
    found = Checkpoint.open(path)
    assert len(parts) == 3
    assert found.path == parts[0]
    assert found.files == parts
    assert found.hashes().keys() == {part.name for part in parts}
    assert found.identities().keys() == {str(part.resolve()) for part in parts}
    assert read_config(path) == found.config == whole.config
    for name in whole.parameters:
        np.testing.assert_array_equal(found.read(name), whole.read(name), err_msg=name)


def test_part_that_is_missing_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    message = r"model-00002-of-00003\.gguf is missing \(1 missing in all\), expected all 3 parts"
    for path in (parts[0], parts[2], parts[0].parent):
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(path)


@pytest.mark.slow
def test_part_that_was_renamed_is_refused(parts: list[Path]) -> None:
    parts[0].rename(parts[0].with_name("mine.gguf"))
    message = r"mine\.gguf: is one of 3 parts, expected a name like NAME-00001-of-00003\.gguf"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(parts[0].with_name("mine.gguf"))


def test_parts_in_another_order_are_refused(parts: list[Path]) -> None:
    shutil.copy(parts[2], parts[1])
    message = r"model-00002-of-00003\.gguf: split\.no is 2 and split\.count 3, expected 1 and 3"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(parts[0])


def test_tensor_in_two_parts_is_refused(parts: list[Path]) -> None:
    shutil.copy(parts[2], parts[1])
    set_number(parts[1], "split.no", 1)
    message = r"00003-of-00003\.gguf: holds \S+, which model-00002-of-00003\.gguf holds too"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(parts[0])


def test_parts_with_fewer_tensors_than_they_say_are_refused(parts: list[Path]) -> None:
    set_number(parts[0], "split.tensors.count", 99)
    message = r"split\.tensors\.count is 99, but its 3 parts hold 21, expected as many; download"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(parts[1])


def test_part_that_changes_is_noticed(parts: list[Path]) -> None:
    checkpoint = Checkpoint.open(parts[0])
    parts[2].write_bytes(parts[2].read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=r"00003-of-00003\.gguf: was written to"):
        checkpoint.refuse_changed()


def test_folder_with_two_split_models_is_refused_by_model(parts: list[Path]) -> None:
    for part in parts:
        shutil.copy(part, part.with_name(part.name.replace("model", "other")))
    message = r"holds 2 GGUF models, model-00001-\S+\.gguf, other-00001-\S+\.gguf; name the one"
    with pytest.raises(ConfigError, match=message):
        Checkpoint.open(parts[0].parent)


@pytest.mark.situation(
    "GGUF file with its suffix in capitals, with another, or with none (a blob of Ollama)",
    package="gguf",
)
@pytest.mark.parametrize("name", ["MODEL.GGUF", "sha256-0123456789abcdef", "model.Q4_0"])
def test_file_is_known_by_its_suffix_or_its_first_bytes(
    tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path, name: str
) -> None:
    path = as_gguf(tiny_checkpoint())
    expected = read_config(path)
    renamed = path.rename(tmp_path / name)
    assert Checkpoint.open(renamed).config == expected
    assert read_config(renamed) == expected


def test_folder_with_one_file_in_capitals_is_that_file(
    tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path
) -> None:
    path = as_gguf(tiny_checkpoint()).rename(tmp_path / "MODEL.GGUF")
    assert Checkpoint.open(tmp_path).path == path
