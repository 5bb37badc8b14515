"""Does an export that is killed between two steps leave nothing half done, and the next one go on?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.graphs.writing.partial_folder import partial_of

from .exports import FORKS, GOING_ON, INT4, INT8, OVER, RENAME, SAVE, Exports
from .left_behind import (
    PARTIAL,
    Whole,
    assert_finished,
    assert_nothing_new,
    contents,
    names,
    noted,
    put,
)

pytestmark = FORKS

BUILD, STAGING = "tramontane.export.build", "tramontane.graphs.writing.staging"
PARTIAL_FOLDER = "tramontane.graphs.writing.partial_folder:PartialFolder"
JOURNAL = "tramontane.graphs.writing.journal:Journal"


def moments(*, of: str) -> pytest.MarkDecorator:
    """Moments of one kind, named as they read."""
    found = [moment for moment in MOMENTS if moment[0] == of]
    return pytest.mark.parametrize(
        "pause", [tuple(m[1:]) for m in found], ids=[" ".join(map(str, m[1:])) for m in found]
    )


MOMENTS = [
    ("begun", f"{BUILD}:write_tokenizer", "before", 1),
    ("begun", f"{BUILD}:write_tokenizer", "after", 1),
    ("begun", f"{STAGING}:_begin", "before", 1),
    ("begun", f"{JOURNAL}.begin", "before", 1),
    ("begun", f"{JOURNAL}.begin", "after", 1),
    ("begun", "tramontane.graphs.writing.external_data:preallocate", "after", 1),
    ("begun", f"{JOURNAL}.add", "before", 1),
    ("begun", f"{JOURNAL}.add", "before", 30),
    ("written", SAVE, "before", 1),
    ("written", SAVE, "after", 1),
    ("written", f"{BUILD}:write_sidecars", "after", 1),
    ("written", f"{BUILD}:write_manifest", "after", 1),
    ("written", f"{BUILD}:render_card", "after", 1),
    ("written", f"{BUILD}:write_manifest", "before", 2),
    ("written", RENAME, "before", 1),
]


@moments(of="begun")
def test_export_killed_before_all_weights_are_noted_computes_the_others(
    exports: Exports, whole: Callable[..., Whole], out: Path, pause: tuple[str, str, int]
) -> None:
    exports.kill_at(pause, out, *INT8)
    assert names(out.parent) == [PARTIAL]
    expected, there = whole(*INT8), noted(out)
    last = exports.finish(out, *INT8)
    assert_finished(out, expected)
    assert last.computed == expected.weights[len(there) :]
    assert (f", {len(there)} of {len(expected.weights)} already there" in last.said) == any(there)


@moments(of="written")
@pytest.mark.parametrize("is_over_older", [False, True], ids=["alone", "over an older one"])
def test_export_killed_when_all_weights_are_noted_computes_none_again(
    exports: Exports,
    whole: Callable[..., Whole],
    out: Path,
    pause: tuple[str, str, int],
    is_over_older: bool,
) -> None:
    older = put(whole(*INT4), out) if is_over_older else {}
    exports.kill_at(pause, out, *INT8)
    assert_nothing_new(out, older)
    last = exports.finish(out, *INT8)
    assert_finished(out, whole(*INT8))
    assert GOING_ON in last.said
    assert last.computed == []


def test_older_artifact_is_brought_back_after_a_kill_between_the_two_renamings(
    exports: Exports, whole: Callable[..., Whole], out: Path
) -> None:
    older = put(whole(*INT4), out)
    exports.kill_at((RENAME, "after", 1), out, *INT8)
    assert names(out.parent) == [PARTIAL]
    next_one = exports.start(out, *INT8, pause=(SAVE, "before", 1))
    next_one.until_paused()
    assert_nothing_new(out, older)
    next_one.go_on()
    assert exports.wait(next_one) == 0
    assert_finished(out, whole(*INT8))
    assert next_one.computed == []


@pytest.mark.parametrize(
    ("is_over_older", "pause"),
    [
        (False, (RENAME, "after", 1)),
        (True, (RENAME, "after", 2)),
        (True, (f"{PARTIAL_FOLDER}.remove", "before", 1)),
        (True, ("pathlib:Path.unlink", "after", 1)),
        (True, (f"{PARTIAL_FOLDER}.remove", "after", 1)),
    ],
    ids=["alone", "over an older one", "older one removed", "journal removed", "all removed"],
)
def test_artifact_is_whole_from_the_renaming_on_and_the_next_run_tidies_up(
    exports: Exports,
    whole: Callable[..., Whole],
    out: Path,
    is_over_older: bool,
    pause: tuple[str, str, int],
) -> None:
    if is_over_older:
        put(whole(*INT4), out)
    expected = whole(*INT8)
    exports.kill_at(pause, out, *INT8)
    assert contents(out) == expected.contents
    is_tidied = (
        PARTIAL not in names(out.parent) or not (partial_of(out) / "journal.jsonl").exists()
    )
    last = exports.finish(out, *INT8)
    assert_finished(out, expected)
    assert last.computed == expected.weights
    assert (f"{OVER}its files are missing\n" in last.said) == (not is_tidied)
