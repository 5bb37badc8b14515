"""Does an export that is killed at any moment leave nothing half done, and the next one go on?"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tramontane.graphs.writing.partial_folder import partial_of
from tramontane.runtime.contract import DATA_FILE
from tramontane.runtime.manifest import read_manifest, verify_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the tests fork processes and kill them"),
]

SERVER = Path(__file__).with_name("killable_export.py")
GOING_ON = "an earlier run was interrupted: resuming it\n"
OVER = "an earlier run was interrupted: starting over, "
PARTIAL = ".artifact.partial"

INT8 = ("--quant", "int8")
INT8_IN_FILES = (*INT8, "--max-shard", "1500kB")
INT4 = ("--quant", "int4")
INT4_IN_FILES = (*INT4, "--max-shard", "700kB")

SLOW = 0.16  # seconds for one weight, where it shall be hit while it is being written
LAST_WEIGHTS = 5  # are not waited for: the test that kills may be late by their time
HALFWAY = ("tramontane.graphs.writing.journal:Journal.add", "after", 20)
DEADLINE_SECONDS = 60


@dataclass(frozen=True)
class Export:
    """One run of the command, in a process of its own."""

    pid: int
    log: Path

    @property
    def said(self) -> str:
        """All of its output, without the names of weights it computed."""
        return "".join(line for line in self._lines() if not line.startswith("computes "))

    @property
    def computed(self) -> list[str]:
        """Weights whose numbers it computed, in order."""
        return [line.split()[1] for line in self._lines() if line.startswith("computes ")]

    def until_paused(self) -> None:
        until(lambda: self.log.with_suffix(".paused").exists(), self)

    def go_on(self) -> None:
        self.log.with_suffix(".go").touch()

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines(keepends=True) if self.log.exists() else []


class Exports:
    """The server that forks exports; see ``killable_export.py``."""

    def __init__(self, server: subprocess.Popen[str], logs: Path, checkpoint: Path) -> None:
        self.server, self.logs, self.checkpoint = server, logs, checkpoint
        self.running: set[int] = set()

    def start(
        self,
        out: Path,
        *options: str,
        checkpoint: Path | None = None,
        is_traced: bool = False,
        slow_from: int | None = None,
        pause: tuple[str, str, int] | None = None,
    ) -> Export:
        """Begin an export.

        Args:
            out: its artifact.
            options: of the command.
            checkpoint: another one of the same architecture.
            is_traced: trace the model anew, which takes most of an export's time.
            slow_from: write weights slowly from this one on.
            pause: stop at a function: its address, before or after, at which call.
        """
        log = self.logs / f"{sum(1 for _ in self.logs.glob('*.log'))}.log"
        log.touch()
        source = str(checkpoint or self.checkpoint)
        request = {
            "do": "start",
            "arguments": ["export", source, "--out", str(out), "--no-validate", *options],
            "log": str(log),
            "is_traced": is_traced,
            "slow_from": slow_from,
            "seconds": SLOW,
            "pause": pause,
        }
        export = Export(self._ask(request), log)
        self.running.add(export.pid)
        return export

    def wait(self, export: Export) -> int:
        """Its exit status, or minus the number of the signal that ended it."""
        self.running.remove(export.pid)
        return self._ask({"do": "wait", "pid": export.pid})

    def finish(self, out: Path, *options: str, **how: Any) -> Export:
        """Run an export to its end."""
        export = self.start(out, *options, **how)
        assert self.wait(export) == 0, export.said
        return export

    def kill(self, export: Export) -> None:
        os.kill(export.pid, signal.SIGKILL)
        assert self.wait(export) == -signal.SIGKILL, f"it was over already:\n{export.said}"

    def kill_at(self, pause: tuple[str, str, int], out: Path, *options: str, **how: Any) -> Export:
        """Begin an export and kill it where it pauses."""
        export = self.start(out, *options, pause=pause, **how)
        export.until_paused()
        self.kill(export)
        return export

    def close(self) -> None:
        """End what a failed test has left running."""
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)

    def _ask(self, request: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


@dataclass(frozen=True)
class Whole:
    """What an export that nobody interrupted made."""

    contents: dict[str, bytes]
    weights: list[str]  # names, in the order of writing
    seconds: float


@pytest.fixture(scope="module")
def exports(stdlib_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    """Exports of the bundled demo model."""
    with subprocess.Popen(
        [sys.executable, SERVER, stdlib_5m],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        found = Exports(server, tmp_path_factory.mktemp("logs"), stdlib_5m)
        yield found
        found.close()


@pytest.fixture(scope="module")
def whole(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Whole]:
    """Export a recipe without interruption, once; the first time with a trace of its own."""
    known: dict[tuple[str, ...], Whole] = {}

    def export(*options: str) -> Whole:
        if options not in known:
            out = tmp_path_factory.mktemp("whole") / "artifact"
            start = time.monotonic()
            run = exports.finish(out, *options, is_traced=not known)
            verify_files(out, read_manifest(out))
            known[options] = Whole(contents(out), run.computed, time.monotonic() - start)
        return known[options]

    return export


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the artifact shall lie; its parent holds nothing else."""
    return tmp_path / "models" / "artifact"


def until(is_so: Callable[[], bool], export: Export) -> None:
    """Wait, looking often."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain:\n{export.said}"
        time.sleep(0.001)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def noted(out: Path) -> list[str]:
    """Weights that the journal has a whole line of."""
    journal = partial_of(out) / "journal.jsonl"
    if not journal.exists():
        return []
    lines = journal.read_text().splitlines(keepends=True)[1:]
    return [json.loads(line)["name"] for line in lines if line.endswith("\n")]


def has_noted(out: Path, count: int) -> bool:
    return len(noted(out)) >= count


def put_older(exports: Exports, whole: Callable[..., Whole], out: Path) -> dict[str, bytes]:
    """Let an artifact of another recipe lie where another shall."""
    older = whole(*INT4).contents
    for name, content in older.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return older


def assert_nothing_new(out: Path, older: dict[str, bytes]) -> None:
    """Nothing is under the final name; where an artifact was, it is still whole."""
    assert set(names(out.parent)) <= {PARTIAL, *([out.name] if older else [])}
    if older:
        assert contents(out) == older
        verify_files(out, read_manifest(out))


def assert_finished(out: Path, expected: Whole) -> None:
    """The artifact is the one of a run that nobody interrupted, and lies alone."""
    assert names(out.parent) == [out.name]
    found = contents(out)
    assert found.keys() == expected.contents.keys()
    for name, content in expected.contents.items():
        assert found[name] == content, f"{name} has other bytes"


# Kills of one export, again and again until it is let through: how many in its first stages, at
# random times while it reads and traces, and how many at random weights.
CHAINS = {
    "int8": (INT8, 3, 3, False),
    "int8 over an older artifact": (INT8, 0, 4, True),
    "int8 in files": (INT8_IN_FILES, 0, 3, False),
    "int4": (INT4, 0, 3, False),
    "int4 in files": (INT4_IN_FILES, 0, 4, False),
}


def test_an_export_is_killed_at_twenty_moments() -> None:
    assert sum(early + late for _, early, late, _ in CHAINS.values()) == 20


@pytest.mark.parametrize("chain", CHAINS)
def test_export_killed_at_random_moments_is_gone_on_with_to_the_same_bytes(
    exports: Exports, whole: Callable[..., Whole], out: Path, chain: str
) -> None:
    options, num_early, num_late, is_over_older = CHAINS[chain]
    expected = whole(*options)
    older = put_older(exports, whole, out) if is_over_older else {}
    chance = random.Random(chain)
    for _ in range(num_early):
        export = exports.start(out, *options, is_traced=True, slow_from=0)
        time.sleep(chance.uniform(0, 0.9 * expected.seconds))
        exports.kill(export)
        assert_nothing_new(out, older)
    for moment in sorted(chance.sample(range(1, len(expected.weights) - LAST_WEIGHTS), num_late)):
        is_begun, there = (partial_of(out) / "journal.jsonl").exists(), noted(out)
        count = max(moment, len(there) + 1)
        export = exports.start(out, *options, slow_from=count)
        until(functools.partial(has_noted, out, count), export)
        time.sleep(chance.uniform(0, SLOW))
        exports.kill(export)
        assert_nothing_new(out, older)
        assert (GOING_ON in export.said) == is_begun
        assert export.computed == expected.weights[len(there) :][: len(export.computed)]
        assert noted(out) == expected.weights[: len(noted(out))]
    there = noted(out)
    last = exports.finish(out, *options, is_traced=num_early > 0)
    assert_finished(out, expected)
    assert GOING_ON in last.said
    num_weights = len(expected.weights)
    assert f"writing weights, {len(there)} of {num_weights} already there (" in last.said
    assert last.computed == expected.weights[len(there) :]


BUILD, STAGING = "tramontane.export.build", "tramontane.graphs.writing.staging"
PARTIAL_FOLDER = "tramontane.graphs.writing.partial_folder:PartialFolder"
JOURNAL, SAVE, RENAME = (
    "tramontane.graphs.writing.journal:Journal",
    "onnx_ir:save",
    "pathlib:Path.rename",
)


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
    older = put_older(exports, whole, out) if is_over_older else {}
    exports.kill_at(pause, out, *INT8)
    assert_nothing_new(out, older)
    last = exports.finish(out, *INT8)
    assert_finished(out, whole(*INT8))
    assert GOING_ON in last.said
    assert last.computed == []


def test_older_artifact_is_brought_back_after_a_kill_between_the_two_renamings(
    exports: Exports, whole: Callable[..., Whole], out: Path
) -> None:
    older = put_older(exports, whole, out)
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
        put_older(exports, whole, out)
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
    exports: Exports, whole: Callable[..., Whole], stdlib_5m: Path, out: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(stdlib_5m, checkpoint)
    exports.kill_at(HALFWAY, out, *INT8, checkpoint=checkpoint)
    weights = checkpoint / "model.safetensors"
    flip(weights, weights.stat().st_size - 2)  # the lowest bit of a bfloat16
    last = exports.finish(out, *INT8, checkpoint=checkpoint)
    assert f"{OVER}changed since: file model.safetensors\n" in last.said
    assert last.computed == whole(*INT8).weights
    alone = tmp_path / "alone" / "artifact"
    exports.finish(alone, *INT8, checkpoint=checkpoint)
    assert contents(out) == contents(alone)
    assert contents(out)[DATA_FILE] != whole(*INT8).contents[DATA_FILE]
    assert names(out.parent) == [out.name]


def test_checkpoint_that_is_only_newer_is_gone_on_with(
    exports: Exports, whole: Callable[..., Whole], stdlib_5m: Path, out: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / stdlib_5m.name
    exports.kill_at(HALFWAY, out, *INT8)
    shutil.copytree(stdlib_5m, checkpoint, copy_function=shutil.copyfile)
    last = exports.finish(out, *INT8, checkpoint=checkpoint)
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
