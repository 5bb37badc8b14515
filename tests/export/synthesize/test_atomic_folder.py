"""A new checkpoint takes its name only when it is whole, and displaces nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tramontane.export.synthesize.atomic_folder import new_checkpoint_folder
from tramontane.graphs.writing.own_folders import mark
from tramontane.runtime.errors import CheckpointError


def refusal(out: Path, needed_bytes: int = 0) -> str:
    with pytest.raises(CheckpointError) as error, new_checkpoint_folder(out, needed_bytes):
        pytest.fail("begun")
    return str(error.value)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_new_or_empty_folder_appears_when_the_block_is_done(
    tmp_path: Path, is_there: bool
) -> None:
    out = tmp_path / "a" / "b"
    if is_there:
        out.mkdir(parents=True)
    with new_checkpoint_folder(out, 0) as folder:
        (folder / "x").touch()
        assert not (out / "x").exists()
    assert [path.name for path in out.iterdir()] == ["x"]
    assert list(out.parent.iterdir()) == [out]


def test_an_interrupted_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_checkpoint_folder(tmp_path / "out", 0) as folder:
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
        "remove this one if it is not needed"
    )


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    out, left = tmp_path / "out", tmp_path / ".out.partial"
    (left / "checkpoint").mkdir(parents=True)
    (left / "checkpoint" / "half.safetensors").touch()
    (left / "lock").touch()
    mark(left, "a checkpoint that is not whole yet")
    with new_checkpoint_folder(out, 0) as folder:
        (folder / "x").touch()
    assert [path.name for path in out.iterdir()] == ["x"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_name_that_another_run_is_writing_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_checkpoint_folder(out, 0) as folder:
        (folder / "x").touch()
        assert refusal(out) == (
            f"{out}: another synthesize is writing it; wait for it, or name another folder"
        )
    assert [path.name for path in out.iterdir()] == ["x"]


def test_too_little_room_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    assert refusal(tmp_path / "a" / "out", needed_bytes=2 * 10**9) == (
        f"{tmp_path / 'a' / 'out'}: 1.00 GB free on its disk, expected at least 2.00 GB; "
        "make room, take fewer layers or name another folder"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("is_relative", [True, False])
def test_a_link_stays_and_the_folder_appears_where_it_leads(
    tmp_path: Path, is_there: bool, is_relative: bool
) -> None:
    disk, out = tmp_path / "disk", tmp_path / "out"
    (disk / "real" if is_there else disk).mkdir(parents=True)
    out.symlink_to("disk/real" if is_relative else disk / "real")
    with new_checkpoint_folder(out, 0) as folder:
        assert folder.is_relative_to(disk)
        (folder / "x").touch()
    assert out.is_symlink()
    assert [path.name for path in out.iterdir()] == ["x"]
    assert [path.name for path in disk.iterdir()] == ["real"]


@pytest.mark.parametrize("leads_to", ["out", "missing/real"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, leads_to: str) -> None:
    (tmp_path / "out").symlink_to(leads_to)
    assert refusal(tmp_path / "out").startswith(f"{tmp_path / 'out'}: a link ")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_somebody_puts_there_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = "out: cannot take its name .*name another one"
    with pytest.raises(CheckpointError, match=message), new_checkpoint_folder(out, 0) as folder:
        (folder / "x").touch()
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("content", ["mine", "made by tramontane: an artifact\n"])
@pytest.mark.parametrize("name", ["notes.txt", ".tramontane", "lock"])
def test_a_hidden_folder_that_is_not_ours_is_refused_and_stays(
    tmp_path: Path, name: str, content: str
) -> None:
    theirs = tmp_path / ".out.partial" / name
    theirs.parent.mkdir()
    theirs.write_text(content)
    assert refusal(tmp_path / "out") == (
        f"{theirs.parent}: exists and was not made by synthesize (no .tramontane of ours in it); "
        "move it elsewhere or name another folder"
    )
    assert theirs.read_text() == content
