"""A held file is read and hashed as it was when it was opened, and every change is named."""

from __future__ import annotations

import gc
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.export.files.held_files import HeldFile, HeldFiles
from tramontane.runtime.errors import CheckpointError

BYTES = bytes(range(256)) * 5000  # more than is hashed at once
OPEN_FILES = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="open files cannot be replaced there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(BYTES)
    os.utime(tmp_path / "file", (1, 1))
    return tmp_path / "file"


def replace(path: Path) -> None:
    path.with_name("other").write_bytes(path.read_bytes())
    os.replace(path.with_name("other"), path)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def link_elsewhere(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.with_name("other").write_bytes(BYTES)
    path.symlink_to("other")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (Path.unlink, "was removed while"),
    "replaced": (replace, "was replaced by another file while"),
    "linked elsewhere": (link_elsewhere, "was replaced by another file while"),
    "overwritten": (overwrite, r"was written to \(1280000 bytes before, 1280000 now\) while"),
    "longer": (append, r"was written to \(1280000 bytes before, 1280004 now\) while"),
    "cut": (lambda p: os.truncate(p, 10), r"was written to \(1280000 bytes before, 10 now\)"),
    "touched": (os.utime, r"was written to \(1280000 bytes before, 1280000 now\) while"),
}


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_named(path: Path, change: str, is_closed: bool) -> None:
    do_change, told = CHANGES[change]
    file = HeldFile(path)
    file.refuse_changed()
    if is_closed:
        file.close()
    do_change(path)
    with pytest.raises(CheckpointError, match=rf"file: {told}.*; run the command again when "):
        file.refuse_changed()


def test_a_write_into_a_file_that_was_replaced_and_put_back_is_named(path: Path) -> None:
    file = HeldFile(path)
    path.rename(path.with_name("kept"))
    overwrite(path.with_name("kept"))
    path.with_name("kept").rename(path)
    with pytest.raises(CheckpointError, match="was written to"):
        file.refuse_changed()


@pytest.mark.parametrize("change", ["removed", "replaced", "linked elsewhere"])
def test_a_file_that_lost_its_name_is_read_and_hashed_as_it_was(path: Path, change: str) -> None:
    file = HeldFile(path)
    CHANGES[change][0](path)
    if path.exists():
        overwrite(path)
    assert file.read_bytes() == BYTES
    assert file.sha256() == hashlib.sha256(BYTES).hexdigest()


@pytest.mark.parametrize(("size", "offset"), [(8, 0), (8, 300), (9, len(BYTES) - 3), (8, 10**9)])
def test_parts_are_those_of_the_file(path: Path, size: int, offset: int) -> None:
    assert HeldFile(path).read_bytes(size, offset=offset) == BYTES[offset : offset + size]
    assert HeldFile(path).read_bytes(offset=offset) == BYTES[offset:]


def test_permissions_and_reading_are_no_change(path: Path) -> None:
    file = HeldFile(path)
    path.chmod(0o600)
    path.read_bytes()
    os.link(path, path.with_name("second"))
    file.refuse_changed()


def test_the_working_folder_may_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    file = HeldFile(Path("file"))
    monkeypatch.chdir("/")
    file.refuse_changed()


def test_a_linked_file_is_the_one_that_the_link_leads_to(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    file = HeldFile(link)
    file.refuse_changed()
    overwrite(path)
    with pytest.raises(CheckpointError, match="link: was written to"):
        file.refuse_changed()


def test_threads_read_each_their_own_part(path: Path) -> None:
    file, wrong = HeldFile(path), []

    def read(start: int) -> None:
        for offset in range(start, len(BYTES) - 1000, 7919):
            if file.read_bytes(1000, offset=offset) != BYTES[offset : offset + 1000]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(0, 4000, 1000)]
    for thread in threads:
        thread.start()
    assert file.sha256() == hashlib.sha256(BYTES).hexdigest()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.slow
@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="the system does not tell what is open")
@pytest.mark.parametrize("is_closed", [False, True])
def test_nothing_stays_open(path: Path, is_closed: bool) -> None:
    gc.collect()  # files that other tests left open
    before = len(list(OPEN_FILES.iterdir()))
    held = HeldFiles()
    assert held.hold(path) is held.hold(path)
    assert held.find(path.with_name("missing")) is None
    assert len(list(OPEN_FILES.iterdir())) == before + 1
    if is_closed:
        held.close()
        held.close()
    else:
        del held
        gc.collect()
    assert len(list(OPEN_FILES.iterdir())) == before


def test_what_is_closed_cannot_be_read(path: Path) -> None:
    file = HeldFile(path)
    file.close()
    with pytest.raises(CheckpointError, match="file: unreadable .*closed"):
        file.sha256()
    with pytest.raises(CheckpointError, match="file: unreadable .*closed"):
        file.read_bytes()


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone: unreadable \(No such file or directory\)"):
        HeldFile(tmp_path / "gone")


def test_another_process_reads_the_same_files_or_none(path: Path) -> None:
    held, there = HeldFiles(), HeldFiles()
    held.hold(path)
    there.hold(path)
    there.refuse_others(held.identities())
    replace(path)
    other = HeldFiles()
    other.hold(path)
    with pytest.raises(CheckpointError, match="file: was replaced or written to between two"):
        other.refuse_others(held.identities())
