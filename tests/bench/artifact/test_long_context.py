"""Does a long sequence cost what a short one does?"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from tramontane.bench.artifact import long_context
from tramontane.bench.artifact.long_context import LongDecode, Point
from tramontane.runtime import Session
from tramontane.runtime.errors import ContractError


def run(*points: tuple[float, int]) -> LongDecode:
    found = [
        Point(position=1000 * (i + 1), step_us=us, resident_bytes=2 * size, own_bytes=size)
        for i, (us, size) in enumerate(points)
    ]
    early, late = found[min(1, len(found) - 1)].step_us, found[-1].step_us
    return LongDecode(window=64, points=found, early_us=early, late_us=late)


def test_the_first_thousand_steps_after_two_windows_are_the_measure() -> None:
    assert run((9, 9), (1, 100), (1, 100)).full.position == 2000
    wider = dataclasses.replace(run(*[(1, 1)] * 5), window=1000)
    assert wider.full.position == 3000


def test_what_stays_as_it_was_breaks_no_bound() -> None:
    assert list(long_context.broken_bounds(run((50, 900), (100, 1000), (110, 1009)))) == []


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ((100, 1100), "memory grew by 10.0% between 2000 and 3000 tokens"),
        ((200, 1000), "steps took longer by 100.0% between 2000 and 3000 tokens"),
    ],
)
def test_growth_and_slower_steps_break_one(last: tuple[float, int], said: str) -> None:
    (line,) = long_context.broken_bounds(run((1, 1), (100, 1000), last))
    assert said in line


def test_too_few_tokens_to_tell_are_refused(embedded_artifact) -> None:
    session = Session.load(embedded_artifact("int8-ort"), threads=1)
    with pytest.raises(ContractError, match="--tokens 2127: expected at least 2128"):
        long_context.decode(session, session, tokens=2127)


@pytest.mark.slow
def test_a_longer_copy_decodes_past_what_the_checkpoint_has(
    two_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = long_context.export_long(two_layers, tmp_path, quant="int8", positions=9000)
    session = Session.load(artifact, threads=1)
    assert session.manifest.geometry.max_positions == 9000
    monkeypatch.setattr(long_context, "AT_ONCE", 100)
    found = long_context.decode(session, Session.load(artifact, threads=1), tokens=400)
    assert [point.position for point in found.points] == [100, 200, 300, 400]
    assert all(point.step_us > 0 and point.resident_bytes > 0 for point in found.points)
    assert found.early_us > 0
    assert found.late_us == found.points[-1].step_us


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="has no config.json"):
        long_context.export_long(tmp_path, tmp_path, quant="int8", positions=10)


def test_the_command_says_what_broke_and_exits_with_1(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    embedded_artifact,
) -> None:
    monkeypatch.setattr(
        long_context, "export_long", lambda *_, **__: embedded_artifact("int8-ort")
    )
    monkeypatch.setattr(
        long_context, "decode", lambda *_, **__: run((1, 1), (100, 1000), (500, 1000))
    )
    out = tmp_path / "flat.json"
    plot = tmp_path / "flat.svg"
    assert long_context.main([str(stdlib_5m), "--out", str(out), "--plot", str(plot)]) == 1
    said = capsys.readouterr()
    assert "bound broken: steps took longer by 400.0%" in said.err
    assert json.loads(out.read_text("utf-8"))["slower"] == 4.0
    assert "{" not in said.out
    assert re.search(r"a step, us \(median\) .* \+400\.0% .* <= \+25%", said.out)
    assert long_context.main([str(stdlib_5m), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["slower"] == 4.0
    assert plot.is_file()
