"""A partial folder is one process's at a time, and what is not ours is refused and stays."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from tramontane.graphs.writing.own_folders import MARK_FILE, is_marked, mark
from tramontane.graphs.writing.partial_folder import (
    PartialKind,
    open_partial,
    partial_of,
    wait_for_others,
)
from tramontane.runtime.errors import ContractError

KIND = PartialKind(content="a loaf", made_by="a baker", another="another baker", advice="wait")
OTHER = PartialKind(content="a pot", made_by="a potter", another="another potter", advice="wait")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "below" / "out"


def contents(folder: Path) -> dict[str, bytes | str]:
    """What lies in a folder, at any depth: the bytes of files, where links lead."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_it_lies_beside_the_name_marked_and_is_removed_whole(out: Path) -> None:
    partial = open_partial(out, KIND)
    assert partial.path == partial_of(out) == out.with_name(".out.partial")
    assert is_marked(partial.path, KIND.content)
    (partial.path / "folder" / "inner").mkdir(parents=True)
    (partial.path / "file").touch()
    partial.remove()
    assert list(out.parent.iterdir()) == []


def test_one_that_was_released_is_taken_again_with_its_content(out: Path) -> None:
    first = open_partial(out, KIND)
    (first.path / "half").write_text("kept")
    first.release()
    second = open_partial(out, KIND)
    assert (second.path / "half").read_text() == "kept"
    second.remove()


def test_a_second_process_is_refused_until_the_first_is_done(out: Path) -> None:
    partial = open_partial(out, KIND)
    with pytest.raises(ContractError) as refusal:
        open_partial(out, KIND)
    assert str(refusal.value) == f"{out}: another baker is writing it; wait for it, or wait"
    partial.remove()
    open_partial(out, KIND).remove()


def test_one_of_another_kind_is_refused_and_stays(out: Path) -> None:
    theirs = open_partial(out, OTHER)
    theirs.release()
    with pytest.raises(ContractError) as refusal:
        open_partial(out, KIND)
    assert str(refusal.value) == (
        f"{partial_of(out)}: exists and was not made by a baker (no {MARK_FILE} of ours in it); "
        "move it elsewhere or wait"
    )
    assert is_marked(partial_of(out), OTHER.content)


def test_a_file_of_that_name_is_refused_and_stays(out: Path) -> None:
    out.parent.mkdir()
    partial_of(out).write_text("mine")
    with pytest.raises(ContractError, match="was not made by a baker"):
        open_partial(out, KIND)
    assert partial_of(out).read_text() == "mine"


@pytest.mark.parametrize("leads_to", ["nothing", "itself", "a file", "empty", "full", "marked"])
def test_a_link_of_that_name_is_refused_and_what_it_leads_to_stays(
    out: Path, tmp_path: Path, leads_to: str
) -> None:
    theirs, link = tmp_path / "theirs", partial_of(out)
    out.parent.mkdir()
    if leads_to == "a file":
        theirs.write_text("years of work")
    elif leads_to != "nothing":
        theirs.mkdir()
    if leads_to == "full":
        (theirs / "thesis.txt").write_text("years of work")
    if leads_to == "marked":
        mark(theirs, KIND.content)
    link.symlink_to(link if leads_to == "itself" else theirs)
    before = contents(tmp_path)
    with pytest.raises(ContractError) as refusal:
        open_partial(out, KIND)
    assert str(refusal.value) == (
        f"{link}: is a link to {link.readlink()}, expected only files and folders of a baker "
        f"there; remove it (rm {link})"
    )
    assert contents(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no fifos")
@pytest.mark.parametrize("name", ["", "lock", MARK_FILE, "journal.new", "early/notes"])
def test_a_fifo_there_is_refused_at_once(out: Path, name: str) -> None:
    fifo = partial_of(out) / name
    fifo.parent.mkdir(parents=True, exist_ok=True)
    if name not in ("", MARK_FILE):
        mark(partial_of(out), KIND.content)
    os.mkfifo(fifo)
    with pytest.raises(ContractError, match=f"{re.escape(str(fifo))}: is a fifo, .*; remove it"):
        open_partial(out, KIND)
    assert fifo.is_fifo()


def test_waiting_writes_through_no_link(out: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "thesis.txt"
    theirs.write_text("years of work")
    partial_of(out).mkdir(parents=True)
    (partial_of(out) / "lock").symlink_to(theirs)
    wait_for_others(out, most_s=60)
    assert theirs.read_text() == "years of work"


def test_a_link_in_it_is_removed_and_what_it_leads_to_stays(out: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years of work")
    partial = open_partial(out, KIND)
    (partial.path / "link").symlink_to(tmp_path / "theirs")
    partial.remove()
    assert list(out.parent.iterdir()) == []
    assert (tmp_path / "theirs" / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_vanished_meanwhile_is_no_error(out: Path) -> None:
    partial = open_partial(out, KIND)
    partial.path.rename(out)
    partial.remove()
    assert list(out.parent.iterdir()) == [out]


def test_waiting_ends_with_the_other_run_or_after_some_time(out: Path) -> None:
    wait_for_others(out, most_s=60)  # nobody has it
    first = open_partial(out, KIND)
    wait_for_others(out, most_s=0.1)  # it has not ended
    waiting = threading.Thread(target=wait_for_others, args=(out,), kwargs={"most_s": 60})
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    first.release()
    waiting.join(30)
    assert not waiting.is_alive()
    open_partial(out, KIND).remove()
    assert not partial_of(out).exists()
