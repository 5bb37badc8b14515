"""Does a folder get its name only when it is whole, and what of an interrupted one is kept?"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tramontane.graphs.writing.journal import Identity
from tramontane.graphs.writing.partial_folder import partial_of
from tramontane.graphs.writing.staging import note_of_replaced, refuse_occupied, staged
from tramontane.runtime.contract import DATA_FILE, MANIFEST_FILE, MODEL_FILE
from tramontane.runtime.errors import (
    CheckpointError,
    ConfigError,
    ContractError,
    GraphError,
    ParityError,
    TraceError,
)

IDENTITY: Identity = {"quant": "int4", "block": 32, "window": None, "numpy": "2.4.6"}
OURS = [CheckpointError, ConfigError, ContractError, GraphError, ParityError, TraceError]
NOT_OURS = [KeyboardInterrupt, SystemExit, RuntimeError, MemoryError]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the artifact shall lie; its parent holds nothing else."""
    return tmp_path / "models" / "artifact"


def write_old(out: Path, *, text: str = "old") -> None:
    """Put an artifact where another shall lie."""
    write(out / "config.json", text)
    (out / MANIFEST_FILE).write_text(manifest("config.json"))


def manifest(*files: str) -> str:
    return json.dumps({"manifest_sha256": "0" * 64, "files": {name: {} for name in files}})


def interrupt(out: Path, *, identity: Identity = IDENTITY, **options: Any) -> str:
    """Begin an artifact, write half of it and be interrupted; return the note it began with."""
    with (
        pytest.raises(KeyboardInterrupt),
        staged(out, identity=identity, **options) as staging,
    ):
        write(staging.folder / DATA_FILE, "half")
        raise KeyboardInterrupt
    return staging.note


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_takes_its_name_when_the_block_succeeds(out: Path) -> None:
    with staged(out, identity=IDENTITY) as staging:
        (staging.folder / MANIFEST_FILE).write_text("new")
        assert staging.note == ""
        assert staging.journal.differences(IDENTITY) == []
        assert not out.exists()
    assert (out / MANIFEST_FILE).read_text() == "new"
    assert names(out) == [MANIFEST_FILE]
    assert names(out.parent) == ["artifact"]


@pytest.mark.parametrize("failure", OURS)
def test_nothing_is_left_when_the_artifact_is_refused(out: Path, failure: type[Exception]) -> None:
    with pytest.raises(failure), staged(out, identity=IDENTITY) as staging:
        write(staging.folder / MODEL_FILE, "half")
        raise failure
    assert names(out.parent) == []


@pytest.mark.parametrize("failure", NOT_OURS)
def test_interrupted_run_is_gone_on_with(out: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), staged(out, identity=IDENTITY) as staging:
        write(staging.folder / DATA_FILE, "half")
        raise failure
    assert names(out.parent) == [".artifact.partial"]
    with staged(out, identity=dict(reversed(IDENTITY.items()))) as staging:
        assert staging.note == "an earlier run was interrupted: resuming it"
        assert (staging.folder / DATA_FILE).read_text() == "half"
    assert names(out.parent) == ["artifact"]


def test_interrupted_run_is_gone_on_with_twice(out: Path) -> None:
    interrupt(out)
    assert "resuming it" in interrupt(out)
    assert "resuming it" in interrupt(out)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"block": 64}, "block"), ({"quant": "int8", "numpy": "1.26"}, "numpy, quant")],
)
def test_run_of_another_identity_is_not_gone_on_with(
    out: Path, change: Identity, named: str
) -> None:
    interrupt(out)
    with staged(out, identity={**IDENTITY, **change}) as staging:
        assert staging.note == (
            f"an earlier run was interrupted: starting over, changed since: {named}"
        )
        assert names(staging.folder) == []
        assert staging.journal.differences({**IDENTITY, **change}) == []


@pytest.mark.parametrize("change", [{}, {"block": 64}], ids=["same", "another"])
def test_interrupted_run_is_not_gone_on_with_when_that_is_not_wanted(
    out: Path, change: Identity
) -> None:
    interrupt(out)
    with staged(out, identity={**IDENTITY, **change}, resume=False) as staging:
        assert staging.note == (
            "an earlier run was interrupted: starting over, as --no-resume asks"
        )
        assert names(staging.folder) == []


def test_run_whose_files_are_gone_starts_over(out: Path) -> None:
    interrupt(out)
    shutil.rmtree(partial_of(out) / "artifact")
    with staged(out, identity=IDENTITY) as staging:
        assert staging.note.endswith("starting over, its files are missing")
        assert names(staging.folder) == []


def test_what_lies_beside_the_weights_is_not_gone_on_with(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(out, identity=IDENTITY) as staging:
        for name in (DATA_FILE, f"{DATA_FILE}_1", MODEL_FILE, "parity/report.json"):
            write(staging.folder / name, "half")
        raise KeyboardInterrupt
    with staged(out, identity=IDENTITY) as staging:
        assert files(staging.folder) == [DATA_FILE, f"{DATA_FILE}_1"]
        assert names(staging.folder) == ["onnx"]


@pytest.mark.parametrize("garbage", [None, b"", bytes(range(256))], ids=["gone", "empty", "bytes"])
def test_run_whose_journal_is_garbage_starts_over(out: Path, garbage: bytes | None) -> None:
    interrupt(out)
    (partial_of(out) / "journal.jsonl").unlink()
    if garbage is not None:
        (partial_of(out) / "journal.jsonl").write_bytes(garbage)
    with staged(out, identity=IDENTITY) as staging:
        assert staging.note == (
            "an earlier run was interrupted: starting over, its journal is missing or unreadable"
        )
        assert names(staging.folder) == []
        assert staging.journal.differences(IDENTITY) == []


def test_second_run_is_refused_while_the_first_is_writing(out: Path) -> None:
    message = f"{out}: another export is writing it; wait for it, or name another --out"
    with staged(out, identity=IDENTITY) as staging:
        (staging.folder / MANIFEST_FILE).write_text("first")
        with (
            pytest.raises(ContractError) as refusal,
            staged(out, identity=IDENTITY, resume=False),
        ):
            pytest.fail("two runs wrote one artifact")
        assert str(refusal.value) == message
    assert (out / MANIFEST_FILE).read_text() == "first"
    assert names(out.parent) == ["artifact"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, GraphError])
def test_lock_is_free_when_the_first_run_has_failed(
    out: Path, failure: type[BaseException]
) -> None:
    with pytest.raises(failure), staged(out, identity=IDENTITY):
        raise failure
    with staged(out, identity=IDENTITY):
        pass


def test_runs_that_write_side_by_side_do_not_mind_each_other(out: Path) -> None:
    other = out.with_name("other")
    with staged(out, identity=IDENTITY), staged(other, identity=IDENTITY):
        pass
    assert names(out.parent) == ["artifact", "other"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, GraphError])
def test_artifact_survives_a_failed_run_and_yields_to_a_whole_one(
    out: Path, failure: type[BaseException]
) -> None:
    write_old(out)
    with pytest.raises(failure), staged(out, identity=IDENTITY):
        raise failure
    assert (out / "config.json").read_text() == "old"
    with staged(out, identity=IDENTITY) as staging:
        write(staging.folder / MODEL_FILE, "new")
        assert (out / "config.json").read_text() == "old"
    assert files(out) == [MODEL_FILE]
    assert names(out.parent) == ["artifact"]


def test_artifact_is_brought_back_after_a_kill_between_the_two_renamings(out: Path) -> None:
    write_old(out)
    interrupt(out)
    out.rename(partial_of(out) / "replaced")
    with (
        pytest.raises(KeyboardInterrupt),
        staged(out, identity=IDENTITY) as staging,
    ):
        assert (out / "config.json").read_text() == "old"
        assert (staging.folder / DATA_FILE).read_text() == "half"
        raise KeyboardInterrupt
    assert names(out.parent) == [".artifact.partial", "artifact"]


def test_artifact_is_brought_back_into_a_folder_that_somebody_made_meanwhile(out: Path) -> None:
    write_old(out)
    interrupt(out)
    out.rename(partial_of(out) / "replaced")
    out.mkdir()
    interrupt(out)
    assert (out / "config.json").read_text() == "old"
    assert names(out.parent) == [".artifact.partial", "artifact"]


def test_artifact_that_was_replaced_goes_after_a_kill_behind_the_second_renaming(
    out: Path,
) -> None:
    interrupt(out)
    write_old(partial_of(out) / "replaced")
    write_old(out, text="new")
    interrupt(out)
    assert (out / "config.json").read_text() == "new"
    assert not (partial_of(out) / "replaced").exists()
    assert names(out.parent) == [".artifact.partial", "artifact"]


def test_artifact_is_back_at_once_when_the_second_renaming_fails(out: Path) -> None:
    write_old(out)
    with (
        pytest.raises(ContractError, match="cannot be written"),
        staged(out, identity=IDENTITY) as staging,
    ):
        staging.folder.rmdir()
    assert (out / "config.json").read_text() == "old"


def test_what_a_failing_disk_let_through_is_kept_and_the_failure_is_ours(out: Path) -> None:
    with (
        pytest.raises(ContractError, match=r"File too large\); .*--max-shard"),
        staged(out, identity=IDENTITY) as staging,
    ):
        write(staging.folder / DATA_FILE, "half")
        raise OSError(errno.EFBIG, "File too large")
    with staged(out, identity=IDENTITY) as staging:
        assert (staging.folder / DATA_FILE).read_text() == "half"


@pytest.mark.parametrize("name", [".", ".."])
def test_name_that_is_no_folders_own_is_refused(name: str) -> None:
    with pytest.raises(ContractError, match=f"--out {re.escape(name)}: expected the name"):
        refuse_occupied(Path(name))


def test_no_other_run_begins_while_the_files_of_a_finished_one_are_removed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, refusals = shutil.rmtree, []

    def try_meanwhile(path: Path, **options: Any) -> None:
        if path == partial_of(out) and path.exists():
            try:
                with staged(out, identity=IDENTITY):
                    pytest.fail("began in a folder that is about to go")
            except ContractError as refusal:
                refusals.append(refusal)
        remove(path, **options)

    with staged(out, identity=IDENTITY) as staging:
        (staging.folder / MANIFEST_FILE).write_text("first")
        monkeypatch.setattr(shutil, "rmtree", try_meanwhile)
    assert len(refusals) == 1
    assert names(out.parent) == ["artifact"]


def test_lock_is_the_last_to_go(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove, left = shutil.rmtree, []

    def look(path: Path, **options: Any) -> None:
        if path == partial_of(out) and path.exists():
            left.append(names(path))
        remove(path, **options)

    with pytest.raises(GraphError), staged(out, identity=IDENTITY) as staging:
        write(staging.folder / DATA_FILE, "half")
        monkeypatch.setattr(shutil, "rmtree", look)
        raise GraphError
    assert left == [[".tramontane", "lock"]]
    assert names(out.parent) == []


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


LINKS = {
    "to an artifact": ("real", True),
    "to an empty folder": ("real", False),
    "to a name that is free": ("real", None),
    "relative": ("../models/real", True),
}


@pytest.mark.parametrize("kind", LINKS)
def test_linked_artifact_is_written_where_the_link_leads(out: Path, kind: str) -> None:
    leads_to, is_artifact = LINKS[kind]
    real = out.with_name("real")
    out.parent.mkdir()
    out.symlink_to(leads_to if kind == "relative" else real)
    if is_artifact:
        write_old(real)
    elif is_artifact is False:
        real.mkdir()
    for text in ("first", "second"):
        with staged(out, identity=IDENTITY) as staging:
            assert partial_of(out) == real.with_name(".real.partial")
            assert staging.folder.is_relative_to(partial_of(out))
            write_old(staging.folder, text=text)
        assert out.is_symlink()
        assert not real.is_symlink()
        assert (real / "config.json").read_text() == text
        assert names(out.parent) == ["artifact", "real"]


def test_link_to_a_link_and_a_linked_parent_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "parent").symlink_to("disk")
    (tmp_path / "disk" / "second").symlink_to("real")
    out = tmp_path / "parent" / "first"
    out.symlink_to("second")
    with staged(out, identity=IDENTITY) as staging:
        write_old(staging.folder)
    assert names(tmp_path / "disk") == ["first", "real", "second"]
    assert (out / "config.json").read_text() == "old"
    assert (tmp_path / "disk" / "first").is_symlink()


@pytest.mark.parametrize("leads_to", ["artifact", "missing/artifact"])
def test_link_that_leads_nowhere_is_refused_before_any_work(out: Path, leads_to: str) -> None:
    out.parent.mkdir()
    out.symlink_to(leads_to)
    with pytest.raises(ContractError, match=r"artifact: a link .*; .*name another folder"):
        refuse_occupied(out)
    assert names(out.parent) == ["artifact"]


def test_interrupted_run_into_a_linked_artifact_is_resumed_and_keeps_the_older_one(
    out: Path,
) -> None:
    write_old(out.with_name("real"))
    out.symlink_to("real")
    interrupt(out)
    assert "resuming it" in interrupt(out)
    assert (out / "config.json").read_text() == "old"
    assert names(out.parent) == [".real.partial", "artifact", "real"]


def test_folder_where_a_disk_is_mounted_is_refused_before_any_work(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    message = r"artifact: a disk is mounted there, .*; name a folder in it, such as .*artifact$"
    with pytest.raises(ContractError, match=message):
        refuse_occupied(out)
