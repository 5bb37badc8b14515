"""What a store keeps stays within its bound, and nothing of anybody else's is ever removed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.graphs.writing.own_folders import MARK_FILE
from tramontane.runtime.errors import ContractError
from tramontane.validate.reference import reference_cache as module
from tramontane.validate.reference.reference_cache import SUB_FOLDER, Store

SHAPES = {"x": (1000,)}  # 4000 bytes
BYTES = 4128  # with the header, beside the checksums


def add(store: Store, key: str) -> None:
    with store.adding({key: SHAPES}) as made:
        made.arrays[0]["x"][:] = 1


def held(store: Store) -> set[str]:
    return {name for name in ("a", "b", "c") if store.find(name, SHAPES) is not None}


def age(folder: Path, *, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(folder, (at, at))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store keep two runs."""
    monkeypatch.setattr(module, "MOST_BYTES", 2 * BYTES + 1000)


def test_the_oldest_goes_when_a_new_one_needs_its_room(tmp_path: Path, small: None) -> None:
    store = Store(tmp_path / "store")
    for seconds, key in ((30, "a"), (20, "b"), (10, "c")):
        add(store, key)
        age(store.folder / key, seconds=seconds)
    assert held(store) == {"b", "c"}


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine" * 5000)
    return path


def test_what_others_keep_in_the_folder_is_neither_counted_nor_removed(
    tmp_path: Path, small: None
) -> None:
    theirs = [
        write(tmp_path / "photos" / "cat.jpg"),
        write(tmp_path / ".partial-download" / "half"),
        write(tmp_path / "x.npy"),
        write(tmp_path / "thesis" / MARK_FILE),  # some other program's
    ]
    for path in theirs:
        age(path.parent, seconds=10**7)
    store = Store(tmp_path)
    assert store.folder == tmp_path / SUB_FOLDER
    for key in ("a", "b", "c"):
        add(store, key)
    assert held(store) == {"b", "c"}
    assert all(path.read_bytes() == b"mine" * 5000 for path in theirs)
    assert Store(tmp_path).folder == store.folder  # found again
    assert held(Store(tmp_path)) == {"b", "c"}


def test_what_others_put_into_a_folder_of_ours_later_stays_too(
    tmp_path: Path, small: None
) -> None:
    store = Store(tmp_path)
    assert store.folder == tmp_path
    add(store, "a")
    theirs = [write(tmp_path / "photos" / "cat.jpg"), write(tmp_path / "a" / "notes.txt")]
    age(tmp_path / "photos", seconds=10**7)
    store = Store(tmp_path)
    assert store.folder == tmp_path
    for key in ("b", "c"):
        add(store, key)
        age(store.folder / key, seconds=10**3)
    add(store, "d")
    assert "a" not in held(store)
    assert all(path.read_bytes() == b"mine" * 5000 for path in theirs)
    add(Store(tmp_path), "e")  # the remains of "a" are not counted again


def test_a_store_within_a_store_is_not_taken_for_what_it_kept(tmp_path: Path, small: None) -> None:
    outer, inner = Store(tmp_path), Store(tmp_path / "inner")
    add(inner, "a")
    age(inner.folder, seconds=10**6)
    for key in ("a", "b", "c"):
        add(outer, key)
    assert held(inner) == {"a"}


@pytest.mark.parametrize("is_damaged", [True, False])
def test_a_folder_with_the_name_of_a_run_that_is_not_ours_is_not_read_nor_removed(
    tmp_path: Path, is_damaged: bool
) -> None:
    store = Store(tmp_path)
    add(store, "a")
    (tmp_path / "a" / MARK_FILE).unlink()
    if is_damaged:
        write(tmp_path / "a" / "x.npy")
    before = (tmp_path / "a" / "x.npy").read_bytes()
    assert store.find("a", SHAPES) is None
    message = r"a: exists and was not made by tramontane .*; move it elsewhere, or .*--store"
    with pytest.raises(ContractError, match=message):
        add(store, "a")
    assert (tmp_path / "a" / "x.npy").read_bytes() == before


def test_a_damaged_run_is_removed_and_what_somebody_put_beside_its_files_stays(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    add(store, "a")
    write(tmp_path / "a" / "x.npy")
    theirs = write(tmp_path / "a" / "notes.txt")
    assert store.find("a", SHAPES) is None
    assert [path.name for path in (tmp_path / "a").iterdir()] == [theirs.name]


@pytest.mark.parametrize("is_marked", [True, False])
def test_what_a_killed_run_left_goes_after_a_day_where_it_is_ours(
    tmp_path: Path, is_marked: bool
) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.adding({"a": SHAPES}):
        (left,) = tmp_path.glob(".partial-*")
        kept = left.rename(tmp_path / ".partial-kept")
        raise KeyboardInterrupt
    if not is_marked:
        (kept / MARK_FILE).unlink()
    add(store, "b")
    assert kept.exists()  # it may be running
    age(kept, seconds=2 * 24 * 3600)
    add(store, "c")
    assert kept.exists() == (not is_marked)


def test_what_another_run_renames_or_removes_meanwhile_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, is_marked = Store(tmp_path), module.is_marked
    add(store, "a")
    (tmp_path / "a").rename(tmp_path / ".partial-of-another")

    def removing(path: Path, kind: str) -> bool:
        found = is_marked(path, kind)
        if path.name == ".partial-of-another":
            shutil.rmtree(path)
        return found

    monkeypatch.setattr(module, "is_marked", removing)
    add(store, "b")
    assert held(store) == {"b"}


def test_a_linked_store_is_found_again_and_a_linked_run_is_not_ours(
    tmp_path: Path, small: None
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    store = Store(tmp_path / "link")
    add(store, "a")
    (tmp_path / "disk" / "a").rename(tmp_path / "elsewhere")
    (tmp_path / "disk" / "a").symlink_to(tmp_path / "elsewhere")
    assert Store(tmp_path / "link").folder == store.folder
    for key in ("b", "c", "d"):
        add(store, key)
    assert (tmp_path / "elsewhere" / "x.npy").is_file()


def test_the_users_cache_is_used_itself_whatever_an_earlier_version_left_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "default_folder", lambda: tmp_path)
    write(tmp_path / "0123" / "logits.npy")
    assert Store(tmp_path).folder == tmp_path


def _header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _linked(path: Path) -> None:
    path.symlink_to(path.parent.parent.parent / "theirs.npy")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "another shape": lambda path: np.save(path, np.ones(5, np.float32)),
    "another type": lambda path: np.save(path, np.ones(1000)),
    "another order of bytes": lambda path: np.save(path, np.ones(1000, ">f4")),
    "objects": lambda path: np.save(path, np.full(1000, None), allow_pickle=True),
    "an archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(BYTES - 4)),
    "a header without end": lambda path: path.write_bytes(_header(b"{" * 70).ljust(BYTES)),
    "cut off": lambda path: path.write_bytes(b""),
    "a fifo": os.mkfifo,
    "a link": _linked,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "missing": lambda path: path.exists(),
}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Make a file that no run made, which is as large as one that a run makes."""
    np.save(tmp_path / "theirs.npy", np.full(1000, 7, np.float32))
    return tmp_path / "theirs.npy"


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("is_complete", [True, False])
def test_a_run_whose_file_is_damaged_is_computed_anew(
    tmp_path: Path, theirs: Path, damage: Callable[[Path], object], is_complete: bool
) -> None:
    store = Store(tmp_path / "store")
    folder = _folder_of_runs(store, is_complete=is_complete)
    (folder / "a" / "x.npy").unlink()
    damage(folder / "a" / "x.npy")
    assert store.find("a", SHAPES) is None
    with store.adding({"a": SHAPES}) as made:
        assert made.done == 0
        made.arrays[0]["x"][:] = 2
    found = store.find("a", SHAPES)
    assert found is not None
    np.testing.assert_array_equal(found["x"], np.full(1000, 2, np.float32))
    np.testing.assert_array_equal(np.load(theirs), np.full(1000, 7, np.float32))


def _folder_of_runs(store: Store, *, is_complete: bool) -> Path:
    """Where the arrays of a run are: of one that is complete, or was interrupted."""
    if is_complete:
        add(store, "a")
        return store.folder
    _interrupt(store)
    (folder,) = store.folder.glob(".partial-*")
    return folder


def _interrupt(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.adding({"a": SHAPES}) as made:
        made.note(1, {"h": np.ones(3, np.float32)})
        raise KeyboardInterrupt


STATES: dict[str, Callable[[Path], object]] = {
    "a fifo": os.mkfifo,
    "one array": lambda path: path.write_bytes(_header(b"{}")),
    "a number for the list": lambda path: np.savez(path, np.array(5)),
    "a negative number": lambda path: np.savez(path, np.array(["-3"])),
    "a folder": lambda path: path.symlink_to(path.parent),
}


@pytest.mark.parametrize("damage", STATES.values(), ids=STATES)
def test_a_run_whose_progress_is_damaged_begins_again(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    store = Store(tmp_path)
    folder = _folder_of_runs(store, is_complete=False)
    (folder / "state.npz").unlink()
    damage(folder / "state.npz")
    with store.adding({"a": SHAPES}) as made:
        assert made.done == 0
        assert made.state == {}
        made.note(1, {"h": np.ones(3, np.float32)})
    assert store.find("a", SHAPES) is not None


LAYERS = {"a": {"rows": (3, 5), "logits": (4, 7)}}


def interrupted(store: Store, *, layers: int) -> Path:
    """The folder of a run that was interrupted behind so many layers, and while it made logits."""
    with pytest.raises(KeyboardInterrupt), store.adding(LAYERS, by_layer=("rows",)) as made:
        for layer in range(made.done, layers):
            made.arrays[0]["rows"][layer] = layer + 1
            made.note(layer + 1, {"h": np.full(3, layer, np.float32)})
        made.arrays[0]["logits"][:2] = 9
        raise KeyboardInterrupt
    (folder,) = store.folder.glob(".partial-*")
    return folder


@pytest.mark.parametrize("layer", range(3))
def test_a_flipped_bit_of_an_interrupted_run_is_found(tmp_path: Path, layer: int) -> None:
    store, layers = Store(tmp_path), 2
    path = interrupted(store, layers=layers) / "a" / "rows.npy"
    content = bytearray(path.read_bytes())
    content[-3 * 20 + layer * 20 + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(KeyboardInterrupt), store.adding(LAYERS, by_layer=("rows",)) as made:
        assert made.done == (layers if layer == 2 else 0)  # the third was not filled yet
        assert len(made.state) == (layer == 2)
        raise KeyboardInterrupt


def test_a_flipped_bit_of_the_progress_is_found_or_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = interrupted(store, layers=2) / "state.npz"
    whole = path.read_bytes()
    ends = set()
    for place in range(0, len(whole), 29):
        interrupted(store, layers=2)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(KeyboardInterrupt), store.adding(LAYERS, by_layer=("rows",)) as made:
            ends.add(made.done)
            if made.done:
                np.testing.assert_array_equal(made.state["h"], np.ones(3, np.float32))
            raise KeyboardInterrupt
    assert ends == {0, 2}


def test_a_run_that_is_interrupted_again_keeps_the_checksums_of_the_first_layers(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    interrupted(store, layers=1)
    interrupted(store, layers=3)
    with store.adding(LAYERS, by_layer=("rows",)) as made:
        assert made.done == 3
        np.testing.assert_array_equal(made.arrays[0]["rows"][:, 0], [1, 2, 3])
    assert store.find("a", LAYERS["a"]) is not None


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_folder_in_place_of_an_array_is_named(tmp_path: Path, is_complete: bool) -> None:
    store = Store(tmp_path)
    folder = _folder_of_runs(store, is_complete=is_complete)
    (folder / "a" / "x.npy").unlink()
    (folder / "a" / "x.npy").mkdir()
    assert store.find("a", SHAPES) is None
    with pytest.raises(ContractError, match="name another folder with --store"):
        add(store, "a")


@pytest.mark.parametrize("name", ["lock", "state.npz"])
def test_a_folder_in_place_of_a_file_beside_the_arrays_is_named(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    _interrupt(store)
    (folder,) = store.folder.glob(".partial-*")
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ContractError, match=r"\.partial-.*name another folder with --store"):
        add(store, "a")


def test_a_fifo_beside_the_arrays_is_not_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.adding({"a": SHAPES}) as made:
        made.arrays[0]["x"][:] = 1
        (folder,) = store.folder.glob(".partial-*")
        os.mkfifo(folder / "a" / "fifo")
    assert store.find("a", SHAPES) is not None


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("is_new_process", [True, False])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("x.npy", _flip),
        ("x.npy", lambda path: np.save(path, np.full(1000, np.nan, np.float32))),
        ("checksums.json", Path.unlink),
        ("checksums.json", lambda path: path.write_text("[1")),
    ],
)
def test_a_changed_number_of_a_complete_run_is_found(
    tmp_path: Path, name: str, damage: Callable[[Path], object], is_new_process: bool
) -> None:
    store = Store(tmp_path)
    add(store, "a")
    assert store.find("a", SHAPES) is not None
    damage(store.folder / "a" / name)
    if is_new_process or name == "x.npy":
        assert (Store(tmp_path) if is_new_process else store).find("a", SHAPES) is None
        assert not (store.folder / "a").exists()
        add(store, "a")
    assert store.find("a", SHAPES) is not None


def test_checksums_are_not_computed_again_for_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    add(store, "a")
    assert store.find("a", SHAPES) is not None
    monkeypatch.setattr(module, "checksum", lambda _: pytest.fail("computed again"))
    assert store.find("a", SHAPES) is not None
