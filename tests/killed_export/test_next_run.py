"""What does the next run take over of an export that was killed, and what does it write again?"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.graphs.writing.partial_folder import partial_of
from tramontane.runtime.contract import DATA_FILE

from .exports import (
    FORKS,
    GOING_ON,
    HALFWAY,
    INT4,
    INT4_IN_FILES,
    INT8,
    INT8_IN_FILES,
    OVER,
    RENAME,
    Exports,
)
from .left_behind import Whole, assert_finished, assert_nothing_new, contents, names, noted

pytestmark = FORKS


def test_run_killed_while_it_checks_what_is_there_loses_nothing_of_it(
    exports: Exports, whole: Callable[..., Whole], out: Path
) -> None:
    expected = whole(*INT8)
    exports.kill_at(HALFWAY, out, *INT8)
    for pause in (("os:replace", "before", 1), ("os:replace", "after", 1)):
        assert GOING_ON in exports.kill_at(pause, out, *INT8).said
    last = exports.finish(out, *INT8)
    assert_finished(out, expected)
    assert last.computed == expected.weights[20:]


def flip(path: Path, at: int) -> None:
    """Turn one bit of a file over."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def cut(path: Path, *, by: int) -> None:
    os.truncate(path, path.stat().st_size - by)


HERE = "writing weights, {kept} of {count} already there"
DAMAGES: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "first byte": (lambda p: flip(p / "artifact" / DATA_FILE, 0), f"{HERE}, the next one", 0),
    "last line": (lambda p: cut(p / "journal.jsonl", by=1), f"{HERE} (", 19),
    "file empty": (lambda p: os.truncate(p / "artifact" / DATA_FILE, 0), f"{HERE}, the next", 0),
    "file gone": (lambda p: (p / "artifact" / DATA_FILE).unlink(), f"{HERE}, the next one", 0),
    "folder gone": (lambda p: shutil.rmtree(p / "artifact"), f"{OVER}its files are missing", 0),
    "journal gone": (lambda p: (p / "journal.jsonl").unlink(), f"{OVER}its journal is missing", 0),
    "journal empty": (
        lambda p: (p / "journal.jsonl").write_bytes(b""),
        f"{OVER}its journal is missing or unreadable",
        0,
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_damaged_meanwhile_is_told_and_written_again(
    exports: Exports, whole: Callable[..., Whole], out: Path, damage: str
) -> None:
    expected = whole(*INT8)
    exports.kill_at(HALFWAY, out, *INT8)
    assert len(noted(out)) == 20
    do_damage, told, num_kept = DAMAGES[damage]
    do_damage(partial_of(out))
    last = exports.finish(out, *INT8)
    assert_finished(out, expected)
    assert told.format(kept=num_kept, count=len(expected.weights)) in last.said
    assert last.computed == expected.weights[num_kept:]


@pytest.mark.parametrize("k", [0, 7, 19])
def test_weight_with_a_flipped_bit_is_written_again_with_all_after_it(
    exports: Exports, whole: Callable[..., Whole], out: Path, k: int
) -> None:
    expected = whole(*INT4_IN_FILES)
    exports.kill_at(HALFWAY, out, *INT4_IN_FILES)
    lines = (partial_of(out) / "journal.jsonl").read_text().splitlines()
    place = json.loads(lines[1 + k])
    flip(partial_of(out) / "artifact" / place["file"], place["offset"] + place["length"] // 2)
    last = exports.finish(out, *INT4_IN_FILES)
    assert_finished(out, expected)
    num_weights = len(expected.weights)
    assert GOING_ON in last.said
    assert f", {k} of {num_weights} already there, the next one changed since (" in last.said
    assert last.computed == expected.weights[k:]


@pytest.mark.parametrize(
    ("options", "named"),
    [(INT4, "quant"), (INT8_IN_FILES, "max_shard_bytes"), ((*INT8, "--block", "64"), "block")],
    ids=["quant", "max_shard_bytes", "block"],
)
def test_another_recipe_starts_over_and_names_what_is_other(
    exports: Exports, whole: Callable[..., Whole], out: Path, options: tuple[str, ...], named: str
) -> None:
    exports.kill_at(HALFWAY, out, *INT8)
    last = exports.finish(out, *options)
    assert_finished(out, whole(*options))
    assert f"{OVER}changed since: {named}\n" in last.said
    assert last.computed == whole(*options).weights


def test_changed_checkpoint_starts_over_and_names_the_file(
    exports: Exports, whole: Callable[..., Whole], checkpoint: Path, out: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, changed)
    exports.kill_at(HALFWAY, out, *INT8, checkpoint=changed)
    weights = changed / "model.safetensors"
    flip(weights, weights.stat().st_size - 2)  # the lowest bit of a bfloat16
    last = exports.finish(out, *INT8, checkpoint=changed)
    assert f"{OVER}changed since: file model.safetensors\n" in last.said
    assert last.computed == whole(*INT8).weights
    alone = tmp_path / "alone" / "artifact"
    exports.finish(alone, *INT8, checkpoint=changed)
    assert contents(out) == contents(alone)
    assert contents(out)[DATA_FILE] != whole(*INT8).contents[DATA_FILE]
    assert names(out.parent) == [out.name]


def test_checkpoint_that_is_only_newer_is_gone_on_with(
    exports: Exports, whole: Callable[..., Whole], checkpoint: Path, out: Path, tmp_path: Path
) -> None:
    newer = tmp_path / checkpoint.name
    exports.kill_at(HALFWAY, out, *INT8)
    shutil.copytree(checkpoint, newer, copy_function=shutil.copyfile)
    last = exports.finish(out, *INT8, checkpoint=newer)
    assert GOING_ON in last.said
    assert last.computed == whole(*INT8).weights[20:]
    assert_finished(out, whole(*INT8))


def test_no_resume_starts_clean_and_says_so(
    exports: Exports, whole: Callable[..., Whole], out: Path
) -> None:
    expected = whole(*INT8)
    exports.kill_at(HALFWAY, out, *INT8)
    last = exports.finish(out, *INT8, "--no-resume")
    assert_finished(out, expected)
    assert f"{OVER}as --no-resume asks\nwriting weights ({len(expected.weights)})\n" in last.said
    assert last.computed == expected.weights


def test_what_a_killed_run_wrote_beside_the_weights_is_not_taken_over(
    exports: Exports, whole: Callable[..., Whole], out: Path
) -> None:
    exports.kill_at((RENAME, "before", 1), out, *INT8)
    report = partial_of(out) / "artifact" / "parity" / "report.json"
    report.parent.mkdir()
    report.write_text("of a run with a gate")
    (partial_of(out) / "artifact" / "special_tokens_map.json").write_text("gone by now")
    last = exports.finish(out, *INT8)
    assert GOING_ON in last.said
    assert_finished(out, whole(*INT8))


def test_second_export_to_one_name_is_refused_while_the_first_is_writing(
    exports: Exports, whole: Callable[..., Whole], out: Path
) -> None:
    first = exports.start(out, *INT8, pause=HALFWAY)
    first.until_paused()
    second = exports.start(out, *INT8)
    assert exports.wait(second) == 2
    assert (
        f"tramontane: {out}: another export is writing it; wait for it, or name another --out\n"
        in second.said
    )
    assert second.computed == []
    first.go_on()
    assert exports.wait(first) == 0, first.said
    assert_finished(out, whole(*INT8))


def test_interrupted_export_exits_with_130_and_says_where_it_is_kept(
    exports: Exports, whole: Callable[..., Whole], out: Path
) -> None:
    export = exports.start(out, *INT8, pause=HALFWAY)
    export.until_paused()
    os.kill(export.pid, signal.SIGINT)
    assert exports.wait(export) == 130
    assert export.said.endswith(
        f"\n{partial_of(out)}: what was written is kept here; run the same command again to go on "
        "with it, with --no-resume to start anew\n\ntramontane: interrupted\n"
    )
    assert_nothing_new(out, {})
    last = exports.finish(out, *INT8)
    assert last.computed == whole(*INT8).weights[20:]
    assert_finished(out, whole(*INT8))
