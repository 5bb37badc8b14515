"""Is a folder that holds what is not ours refused, and does it keep what it holds?"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

import pytest
from tramontane.graphs.writing.staging import note_of_replaced, refuse_occupied, staged
from tramontane.runtime.contract import DATA_FILE, MANIFEST_FILE
from tramontane.runtime.errors import (
    ContractError,
    GraphError,
)

from .staged_folders import IDENTITY, files, manifest, names, write, write_old


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_artifact_is_refused_and_stays(out: Path, kind: str) -> None:
    thesis = out / "thesis.txt" if kind == "folder" else out
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    message = rf"artifact: exists and is not an artifact \(no {MANIFEST_FILE} of one\); name another --out"
    with pytest.raises(ContractError, match=message), staged(out, identity=IDENTITY):
        pytest.fail("took a name that is another's")
    assert thesis.read_text() == "mine"
    assert names(out.parent) == ["artifact"]


def test_empty_folder_is_free_to_take(out: Path) -> None:
    out.mkdir(parents=True)
    refuse_occupied(out)
    with staged(out, identity=IDENTITY) as staging:
        (staging.folder / MANIFEST_FILE).write_text("new")
    assert names(out) == [MANIFEST_FILE]
    assert names(out.parent) == ["artifact"]


def test_an_artifact_that_is_not_to_be_replaced_is_refused_before_the_work_and_after_it(
    out: Path,
) -> None:
    refuse_occupied(out, replace=False)
    out.mkdir(parents=True)
    refuse_occupied(out, replace=False)  # an empty folder is free
    with (
        pytest.raises(ContractError, match="holds an artifact, expected none with --no-replace"),
        staged(out, identity=IDENTITY, replace=False) as staging,
    ):
        write_old(staging.folder, text="new")
        write_old(out, text="made meanwhile")
    assert (out / "config.json").read_text() == "made meanwhile"
    with (
        pytest.raises(ContractError, match="holds an artifact"),
        staged(out, identity=IDENTITY, replace=False),
    ):
        raise AssertionError("it began")
    assert (out / "config.json").read_text() == "made meanwhile"


def test_what_is_replaced_is_named_as_far_as_its_manifest_can_be_read(out: Path) -> None:
    assert note_of_replaced(out, is_proved=True) == ""
    write_old(out)
    unnamed = f"{out}: the artifact there is replaced when the new one is complete; --no-replace"
    assert note_of_replaced(out, is_proved=False).startswith(unnamed)
    manifest = {"origin": {"name": "m-7b"}, "quant": "int4", "target": "web"}
    (out / MANIFEST_FILE).write_text(json.dumps(manifest))
    named = f"{out}: the artifact there (m-7b, int4 for web) is replaced when the new one passes"
    assert note_of_replaced(out, is_proved=True).startswith(named)


def test_folder_with_another_programs_manifest_is_no_artifact(out: Path) -> None:
    for text in ('{"name": "my app", "icons": []}', "[]", "not JSON", '{"manifest_sha256": 1}'):
        write(out / MANIFEST_FILE, text)
        with pytest.raises(ContractError, match="exists and is not an artifact"):
            refuse_occupied(out)
        assert (out / MANIFEST_FILE).read_text() == text


def test_folder_whose_manifest_is_no_file_or_has_no_end_is_no_artifact(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    os.mkfifo(out / MANIFEST_FILE)
    with pytest.raises(ContractError, match="exists and is not an artifact"):
        refuse_occupied(out)
    assert note_of_replaced(out, is_proved=False).startswith(
        f"{out}: the artifact there is replac"
    )
    (out / MANIFEST_FILE).unlink()
    with (out / MANIFEST_FILE).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ContractError, match="exists and is not an artifact"):
        refuse_occupied(out)


@pytest.mark.parametrize("name", ["notes.txt", "onnx/notes.txt", ".git/HEAD", "link"])
def test_artifact_that_holds_a_file_of_somebody_elses_is_not_replaced(
    out: Path, name: str
) -> None:
    write_old(out)
    if name == "link":
        (out / name).symlink_to("nowhere")
    else:
        write(out / name, "mine")
    message = (
        rf"artifact: holds {re.escape(name)} \(1 such in all\), which is not among the files "
        rf"that its {MANIFEST_FILE} lists, and would be lost when the artifact is replaced; "
        "move it elsewhere or name another --out"
    )
    with pytest.raises(ContractError, match=message), staged(out, identity=IDENTITY):
        pytest.fail("would lose it")
    assert os.path.lexists(out / name)
    assert names(out.parent) == ["artifact"]


def test_file_that_somebody_puts_into_the_artifact_meanwhile_stays_and_so_do_new_weights(
    out: Path,
) -> None:
    write_old(out)
    with (
        pytest.raises(ContractError, match="holds notes.txt"),
        staged(out, identity=IDENTITY) as staging,
    ):
        write(staging.folder / DATA_FILE, "new")
        staging.journal._replace([IDENTITY, {"name": "a weight"}])
        (out / "notes.txt").write_text("mine")
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    with staged(out, identity=IDENTITY) as staging:
        assert (staging.folder / DATA_FILE).read_text() == "new"
    assert files(out) == [DATA_FILE]


@pytest.mark.parametrize("name", ["thesis.txt", "artifact/thesis.txt", "lock", ".tramontane"])
def test_hidden_folder_that_is_not_ours_is_refused_and_stays(out: Path, name: str) -> None:
    theirs = out.with_name(".artifact.partial") / name
    write(theirs, "mine")
    message = (
        r"\.artifact\.partial: exists and was not made by an export \(no \.tramontane of ours "
        r"in it\); move it elsewhere or name another --out"
    )
    with pytest.raises(ContractError, match=message), staged(out, identity=IDENTITY):
        pytest.fail("took a folder that is another's")
    assert theirs.read_text() == "mine"
    assert names(out.parent) == [".artifact.partial"]


def test_hidden_folder_of_a_run_killed_before_it_was_marked_is_taken(out: Path) -> None:
    write(out.with_name(".artifact.partial") / "lock", "")
    with staged(out, identity=IDENTITY):
        pass
    assert names(out.parent) == ["artifact"]


def test_what_lies_beside_the_artifact_survives_with_every_outcome(out: Path) -> None:
    write_old(out)
    theirs = [".artifact.replaced/x", "artifact.partial/x", ".other.partial/x", "notes.txt"]
    for name in theirs:
        write(out.with_name(name.split("/")[0]) / "x" if "/" in name else out.with_name(name), "")
    for failure in (KeyboardInterrupt, GraphError, None):
        with (
            contextlib.suppress(KeyboardInterrupt, GraphError),
            staged(out, identity=IDENTITY) as staging,
        ):
            write(staging.folder / DATA_FILE, "new")
            (staging.folder / MANIFEST_FILE).write_text(manifest(DATA_FILE))
            if failure is not None:
                raise failure
        assert set(theirs) <= set(files(out.parent))
    assert files(out) == [MANIFEST_FILE, DATA_FILE]


@pytest.mark.parametrize(
    "name", ["artifact", "artifact/onnx", "early", "journal.new", ".tramontane"]
)
def test_a_link_in_the_partial_folder_is_not_written_through(out: Path, name: str) -> None:
    partial, elsewhere = out.with_name(f".{out.name}.partial"), out.parent / "elsewhere"
    out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt), staged(out, identity=IDENTITY):
        raise KeyboardInterrupt
    elsewhere.mkdir()
    if name == ".tramontane":
        (partial / name).rename(elsewhere / name)
        (partial / name).symlink_to(elsewhere / name)
    else:
        if (partial / name).is_dir():
            (partial / name).rmdir()
        (partial / name).symlink_to(elsewhere)
    held = names(elsewhere)
    with (
        pytest.raises(ContractError, match=f"{re.escape(name)}: is a link to .*; remove it"),
        staged(out, identity=IDENTITY),
    ):
        pytest.fail("wrote through a link")
    assert names(elsewhere) == held


def test_a_lock_that_is_a_folder_is_named(out: Path) -> None:
    partial = out.with_name(f".{out.name}.partial")
    write(partial / ".tramontane", "made by tramontane: an artifact that is not whole yet\n")
    (partial / "lock").mkdir()
    with (
        pytest.raises(ContractError, match="artifact: cannot be made"),
        staged(out, identity=IDENTITY),
    ):
        pytest.fail("took a folder for a lock")


@pytest.mark.parametrize("when", ["mkdir", "rename"])
def test_a_disk_that_fails_before_the_block_begins_is_typed(
    out: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = out.with_name(f".{out.name}.partial")
    write(partial / ".tramontane", "made by tramontane: an artifact that is not whole yet\n")
    write(partial / "replaced/config.json", "old")

    def fail(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, when, fail)
    with (
        pytest.raises(ContractError, match="artifact: cannot be .*No space left"),
        staged(out, identity=IDENTITY),
    ):
        pytest.fail("began on a full disk")
    assert (partial / "replaced/config.json").read_text() == "old"


def test_all_is_on_the_disk_before_the_artifact_takes_its_name(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, Path]] = []
    sync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        sync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        events.append(("rename", path))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged(out, identity=IDENTITY) as staging:
        write(staging.folder / "onnx/model.onnx", "graph")
        folder = staging.folder
    at = events.index(("rename", folder))
    for path in (folder / "onnx/model.onnx", folder / "onnx", folder):
        assert events.index(("sync", path)) < at
    assert ("sync", out.parent) in events[at:]
