"""Does a new checkpoint take its name only when it is whole, and displace nothing?"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tramontane.errors import CheckpointError
from tramontane.export.fresh_folder import fresh_folder


def refusal(out: Path, needed_bytes: int = 0) -> str:
    with pytest.raises(CheckpointError) as error, fresh_folder(out, needed_bytes):
        pytest.fail("begun")
    return str(error.value)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_new_or_empty_folder_appears_when_the_block_is_done(
    tmp_path: Path, is_there: bool
) -> None:
    out = tmp_path / "a" / "b"
    if is_there:
        out.mkdir(parents=True)
    with fresh_folder(out, 0) as folder:
        (folder / "x").touch()
        assert not (out / "x").exists()
    assert [path.name for path in out.iterdir()] == ["x"]
    assert list(out.parent.iterdir()) == [out]


def test_an_interrupted_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), fresh_folder(tmp_path / "out", 0) as folder:
        (folder / "x").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_name_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    expected = f"{tmp_path}: exists, expected a new or empty folder; name another one"
    assert refusal(tmp_path) == expected
    file = tmp_path / "thesis.txt"
    assert refusal(file) == f"{file}: exists, expected a new or empty folder; name another one"
    assert file.read_text() == "years of work"


@pytest.mark.parametrize("name", ["config.json", "params.json"])
def test_a_checkpoint_that_is_there_must_be_removed_by_its_owner(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).touch()
    assert refusal(tmp_path) == (
        f"{tmp_path}: holds a checkpoint already, expected a new folder; name another one, or "
        "remove this one if nobody needs it"
    )


def test_a_folder_that_a_killed_run_left_is_named(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    assert refusal(tmp_path / "out") == (
        f"{tmp_path / '.out.partial'}: exists, left by a run that was killed or that goes on, "
        "expected none; wait for it, or remove the folder"
    )


def test_too_little_room_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    assert refusal(tmp_path / "a" / "out", needed_bytes=2 * 10**9) == (
        f"{tmp_path / 'a' / 'out'}: 1.00 GB free on its disk, expected at least 2.00 GB; "
        "make room, take fewer layers or name another folder"
    )
    assert list(tmp_path.iterdir()) == []
