"""What is tortured is counted, and what should not have happened is seen."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.runtime.errors import ContractError
from tramontane.torture import exports as running
from tramontane.torture.exports import Ended
from tramontane.torture.flips import flip
from tramontane.torture.kills import judge
from tramontane.torture.left_behind import contents, why_lost, why_unlike
from tramontane.torture.outcomes import CRASHED, FINE, HUNG, LOST, TYPED, UNTYPED, Outcome, Record
from tramontane.torture.page import as_markdown
from tramontane.torture.side_by_side import count


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A whole artifact, alone in its folder."""
    out = tmp_path / "models" / "artifact"
    out.mkdir(parents=True)
    (out / "manifest.json").write_text("whole")
    return out


def test_an_artifact_that_is_whole_is_not_lost(out: Path) -> None:
    whole = contents(out)
    assert why_lost(out, older={}, expected=whole) == ""
    assert why_lost(out, older=whole, expected={"manifest.json": "new"}) == ""
    assert why_unlike(out, whole) == ""


def test_an_artifact_that_the_next_run_brings_back_is_not_lost(out: Path) -> None:
    whole, partial = contents(out), out.with_name(".artifact.partial")
    partial.mkdir()
    out.rename(partial / "replaced")
    assert why_lost(out, older=whole, expected={}) == ""
    shutil.rmtree(partial / "replaced")
    assert why_lost(out, older=whole, expected={"a": "b"}) == "lost what was there"


def test_half_an_artifact_and_files_beside_it_are_seen(out: Path) -> None:
    expected = {**contents(out), "onnx/model.onnx": "0"}
    assert "neither what was there nor a whole artifact" in why_lost(
        out, older={}, expected=expected
    )
    assert why_unlike(out, expected).endswith("nobody ended: onnx/model.onnx")
    (out.parent / "stray").touch()
    assert why_lost(out, older={}, expected=contents(out)) == "left stray beside the artifact"


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (0, "wrote it", FINE),
        (-signal.SIGKILL, "", FINE),
        (130, "", FINE),
        (2, "artifact: cannot be written; make room", TYPED),
        (70, "a bug", UNTYPED),
        (1, "x\nTraceback (most recent call last)\n", UNTYPED),
        (-signal.SIGSEGV, "", CRASHED),
    ],
)
def test_ends_are_judged(status: int, said: str, kind: str) -> None:
    ended = Ended(status=status, said=said, seconds=1.0)
    assert judge(ended, is_hung=False)[0] == kind
    assert judge(ended, is_hung=True)[0] == HUNG


FORKED = """
import os, signal, sys, time
from tramontane.torture.fork_server import interruptible, serve

def leaks() -> int:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)

def run(request):
    os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT), 2)
    if request["when"] == "before":
        os.kill(os.getpid(), signal.SIGINT)
    return interruptible(leaks if request["when"] == "in" else lambda: 5)

serve(run)
"""


@pytest.mark.parametrize(
    ("when", "status"), [("before", 130), ("in", -signal.SIGINT), ("never", 5)]
)
def test_an_interrupt_before_the_command_begins_is_none_of_the_commands(
    tmp_path: Path, when: str, status: int
) -> None:
    log = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", FORKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        answers = []
        for request in ({"do": "start", "log": str(log), "when": when}, {"do": "wait"}):
            server.stdin.write(json.dumps({"pid": int(answers[0]) if answers else 0, **request}))
            server.stdin.write("\n")
            server.stdin.flush()
            answers.append(server.stdout.readline())
        server.stdin.close()
    assert int(answers[1]) == status
    assert ("KeyboardInterrupt" in log.read_text()) == (when == "in")


def test_a_process_that_runs_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(running, "LIMIT_S", 0.1)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert running._still_running([psutil.Process(process.pid)]) == 1
    assert running._still_running([]) == 0


def test_a_flip_that_nobody_finds_is_lost(
    embedded_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact = Path(shutil.copytree(embedded_artifact("int8-ort"), tmp_path / "artifact"))
    before = contents(artifact)
    assert {flip(artifact, seed=0, number=number).kind for number in range(12)} == {TYPED}
    assert contents(artifact) == before
    (artifact / "unlisted").write_bytes(bytes(10**8))
    drawn = random.Random("0/flips/0").random()
    found = {flip(artifact, seed=0, number=number).kind for number in range(6)}
    assert LOST in found, drawn


def test_counts_go_on_where_the_last_run_ended(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    first = Record.open(path)
    first.add("kills", Outcome(case="int8", kind=FINE))
    first.add("kills", Outcome(case="int8", kind=LOST, detail="why"))
    first.next["kills"] = 7
    first.took("kills", 60.0)
    first.took("kills", 45.0)
    first.save()
    again = Record.open(path)
    assert (again.total("kills"), again.bad(), again.next) == (2, 1, {"kills": 7})
    assert again.findings == ["lost: kills, int8: why"]
    page = as_markdown(again, seed=0)
    assert (
        "Seed 0: 2 kills and full disks, 0 mutated files, 0 flipped bits,\nin 2 minutes." in page
    )
    assert "| int8 | 2 | 1 | 0 | 0 | 0 | 0 | 1 |" in page
    assert "## Flipped bits" not in page


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[" * 5000, "not JSON|nested deeper"),
        ("[]", "holds a list, expected an object"),
        ('{"counts": []}', r"counts is \[\], expected an object"),
        ('{"counts": {"a": {"b": {"c": "d"}}}}', "counts.a.b.c is 'd', expected a whole number"),
        ('{"counts": {}, "findings": [1]}', r"findings\[0\] is 1, expected a text"),
        ('{"counts": {}}', "findings is missing, expected a value"),
        (
            '{"counts": {}, "next": {"kills": -1}, "findings": [], "seconds": {}}',
            "holds -1, expected numbers from 0",
        ),
        (
            '{"counts": {}, "next": {}, "findings": [], "seconds": {"kills": NaN}}',
            "seconds.kills is nan, expected a finite number",
        ),
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(ContractError, match=said) as refused:
        Record.open(tmp_path / "record.json")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'record.json'}: ")


def test_cases_run_side_by_side_and_are_counted_in_their_order(tmp_path: Path) -> None:
    record, order, meet = Record(tmp_path / "record.json"), [], threading.Barrier(2)

    def run(number: int, tool: str) -> list[Outcome]:
        meet.wait(10)  # ends for two that run at once alone
        time.sleep(0.02 * (number % 2 == 0))
        order.append(tool)
        return [Outcome(case=str(number), kind=FINE)] * (number % 3)

    record.next["kills"] = 4
    count(record, "kills", most=6, tools=["a", "b"], run=run)
    counted = list(record.counts["kills"])
    assert counted == sorted(counted) == [str(n) for n in range(4, 4 + len(order)) if n % 3]
    assert record.total("kills") >= 6
    assert record.next["kills"] == 4 + len(order)
    assert record.seconds["kills"] > 0
    count(record, "kills", most=6, tools=["a", "b"], run=run)  # there are enough
    assert record.next["kills"] == 4 + len(order)


def test_a_case_that_fails_is_raised_and_the_counted_ones_stay(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.json")

    def run(number: int, _: str) -> list[Outcome]:
        if number == 3:
            raise KeyboardInterrupt
        return [Outcome(case="a", kind=FINE)]

    with pytest.raises(KeyboardInterrupt):
        count(record, "flips", most=9, tools=["a"], run=run)
    assert (record.total("flips"), record.next["flips"]) == (3, 3)


@pytest.mark.slow
def test_torture_runs_in_parts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tramontane.torture", "--record", str(tmp_path)]
    numbers = []
    for kills, flips in ((1, 2), (2, 3)):
        counts = ["--kills", str(kills), "--mutations", "11", "--flips", str(flips)]
        done = subprocess.run([*command, *counts], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        numbers.append(json.loads(done.stdout.splitlines()[-1]))
    assert [found["flips"] for found in numbers] == [2, 3]
    assert [found["mutations"] for found in numbers] == [11, 11]
    assert 1 <= numbers[0]["kills"] < numbers[1]["kills"] + 1
    assert numbers[1]["kills"] >= 2
