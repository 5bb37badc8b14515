"""Does a folder get its name only when it is whole, and what of an interrupted one is kept?"""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tramontane.graphs.writing.journal import Identity
from tramontane.graphs.writing.partial_folder import partial_of
from tramontane.graphs.writing.staging import claimed, refuse_occupied, staged
from tramontane.runtime.contract import DATA_FILE, MANIFEST_FILE, MODEL_FILE
from tramontane.runtime.errors import (
    ContractError,
    GraphError,
    TraceError,
)

from .staged_folders import IDENTITY, NOT_OURS, OURS, files, interrupt, names, write, write_old


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


@pytest.mark.parametrize("failure", [ContractError, TraceError, KeyboardInterrupt])
def test_what_a_calibration_has_done_is_kept_where_the_machine_failed(
    out: Path, failure: type[BaseException]
) -> None:
    with pytest.raises(failure), staged(out, identity=IDENTITY) as staging:
        (staging.scratch / "progress.npz").write_bytes(b"half")
        raise failure
    with staged(out, identity=IDENTITY) as staging:
        assert (staging.scratch / "progress.npz").read_bytes() == b"half"
    with pytest.raises(failure), staged(out, identity=IDENTITY) as staging:
        (staging.scratch / "progress.npz").write_bytes(b"half")
        raise failure
    with staged(out, identity={**IDENTITY, "block": 64}) as staging:
        assert names(staging.scratch) == []
    assert names(out.parent) == ["artifact"]


def test_interrupted_run_is_gone_on_with_twice(out: Path) -> None:
    interrupt(out)
    assert "resuming it" in interrupt(out)
    assert "resuming it" in interrupt(out)


def test_names_in_a_journal_are_printed_short_and_without_control_characters(out: Path) -> None:
    interrupt(out)
    (journal,) = out.parent.glob(".*/journal.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    lines[0] = json.dumps({**IDENTITY, "\x1b[31m" + "x" * 10**6: 1}) + "\n"
    journal.write_text("".join(lines))
    with staged(out, identity=IDENTITY) as staging:
        assert len(staging.note) < 300
        assert staging.note.isprintable()
        assert "changed since: \\x1b[31mxxx" in staging.note


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


@pytest.mark.parametrize("failure", [GraphError, KeyboardInterrupt, OSError])
def test_failure_before_a_folder_is_begun_leaves_nothing(
    out: Path, failure: type[BaseException]
) -> None:
    with pytest.raises(failure), claimed(out) as claim:
        write(claim.early / "tokenizer.json", "{}")
        raise failure
    assert names(out.parent) == []


def test_failure_before_a_folder_is_begun_keeps_what_an_earlier_run_wrote(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(out, identity=IDENTITY) as staging:
        write(staging.folder / DATA_FILE, "half")
        raise KeyboardInterrupt
    with pytest.raises(GraphError), claimed(out) as claim:
        write(claim.early / "left", "by a run that is killed")
        raise GraphError
    with claimed(out) as claim:
        assert names(claim.early) == []
        staging = claim.begin(identity=IDENTITY)
        assert staging.is_resumed
        assert (staging.folder / DATA_FILE).read_text() == "half"
    assert names(out.parent) == [out.name]
