"""How fast is an artifact, and how near is that to what the machine can do?"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from tramontane.bench import limits
from tramontane.bench.artifact import session_speed, speed, speed_table
from tramontane.bench.limits import Work
from tramontane.bench.samples import Spread
from tramontane.cli.main import main
from tramontane.runtime import Session
from tramontane.runtime.contract import MODEL_FILE


def spread(*values: float) -> Spread:
    return Spread(values=values)


WORK = Work(read_bytes=1000, row_bytes=10, windows=(64,), multiplications=500)


def test_a_step_reads_no_more_rows_than_the_window_has() -> None:
    assert [WORK.bytes_at(position) for position in (16, 64, 320)] == [1160, 1640, 1640]


def test_shares_are_taken_within_a_round() -> None:
    figures = {"load": spread(1, 1), "decode at 16": spread(10, 5), "prefill 32": spread(4, 4)}
    rates = {"read": spread(23200, 11600), "multiply": spread(4000, 2000)}
    shares = speed.shares_of(figures, rates, WORK)
    assert {what: one.values for what, one in shares.items()} == {
        "decode at 16": (0.5, 0.5),
        "prefill 32": (0.5, 1.0),
    }


def test_a_graph_s_work_is_that_of_its_matrices_but_those_it_looks_rows_up_in(
    embedded_artifact, tmp_path: Path
) -> None:
    artifact = embedded_artifact("int8-ort")
    session = Session.load(artifact, threads=1)
    tensors = session.manifest.tensors
    packed = [one for one in tensors if one["name"].endswith(".codes")]
    work = limits.work_of(artifact / MODEL_FILE, session.manifest.geometry)
    head = session.manifest.geometry.vocab_size
    codes = sum(int(np.prod(one["shape"])) for one in packed)
    assert work.multiplications == sum(
        int(np.prod(one["shape"])) for one in packed if one["shape"][0] != head
    )
    assert codes < work.read_bytes < 1.1 * codes  # and scales, and norms


def test_rates_are_those_of_work_that_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "_best", lambda work: (work(), 0.5)[1])
    assert limits.read_rate(2) == 2 << 20
    monkeypatch.setattr(limits, "_ROWS", 2)
    monkeypatch.setattr(limits, "_SIZE", 8)
    assert limits.multiply_rate(1) == 2 * 8 * 8 * 2


def test_standing_at_a_position_holds_the_rows_that_computing_up_to_it_would(
    embedded_artifact,
) -> None:
    session = Session.load(embedded_artifact("int8-ort"), threads=1)
    tokens = speed.token_ids(session.manifest.geometry.vocab_size, 64)
    for position in (10, 32, 33, 80, 81, 300):
        session_speed.seek(session, tokens, position, computed=32)
        assert session.tokens == position
        held = [rows.shape for pair in session.cache() for rows in pair]
        assert all(rows.any(axis=(0, 2)).all() for pair in session.cache() for rows in pair)
        session.reset()
        session.prefill([tokens[i % 64] for i in range(position)])
        assert held == [rows.shape for pair in session.cache() for rows in pair]


def test_positions_follow_the_window_and_lengths_the_positions_that_there_are(
    embedded_artifact,
) -> None:
    geometry = Session.load(embedded_artifact("int8-ort")).manifest.geometry
    assert speed.positions(geometry) == [16, 32, 64, 320]
    asked = speed.protocol(geometry)
    assert asked["prefill"] == [32, 256, 2048]
    assert asked["decode"] == [16, 32, 64, 320]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PREFILL", (32,))
    monkeypatch.setattr(speed, "read_rate", lambda _: 1e9)
    monkeypatch.setattr(speed, "multiply_rate", lambda _: 1e10)


def test_the_command_prints_a_table_and_writes_json_and_a_plot(
    embedded_artifact, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, out = tmp_path / "speed.svg", tmp_path / "speed.json"
    words = ["bench", str(embedded_artifact("int8-ort")), "--rounds", "1", "--threads", "1"]
    assert main([*words, "--plot", str(plot), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "decode at position 320" in said
    assert "{" not in said
    line = json.loads(out.read_text())
    assert line["figures"]["decode at 16"]["runs"] == 1
    assert line["shares"].keys() == {"prefill 32", *(f"decode at {n}" for n in (16, 32, 64, 320))}
    assert line["machine"]["threads"] == 1
    assert "position" in plot.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds 0: expected 1 or more"),
        (["--threads", "-1"], "--threads -1: expected 1 or more"),
        (["--plot", "/proc/none/x.svg"], "--plot /proc/none/x.svg: cannot be written"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(
    embedded_artifact, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(embedded_artifact("int8-ort")), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_process_that_fails_is_told_with_its_last_words(
    embedded_artifact, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = speed.protocol
    monkeypatch.setattr(speed, "protocol", lambda geometry: {**good(geometry), "tokens": [-1]})
    with pytest.raises(speed.ContractError, match="exited with 1 .*token -1"):
        speed.measure(embedded_artifact("int8-ort"), rounds=1, threads=1)


def test_plots_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    line = speed_table.Line(title="a", x=[1, 2], y=[3, 4], low=[2, 3], high=[4, 5])
    paths = [tmp_path / "1.svg", tmp_path / "2.svg"]
    for path in paths:
        speed_table.plot_lines([line, line], path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_the_driver_costs_leaves_out_the_graph_s_run(
    embedded_artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session.load(embedded_artifact("int8-ort"), threads=1)
    job = {"tokens": speed.token_ids(2048, 64), "prompt": 4, "steps": 4}
    graph, run = session.model.graph, session.model.graph.run_with_iobinding
    monkeypatch.setattr(
        graph, "run_with_iobinding", lambda *bound: (run(*bound), time.sleep(0.02))
    )
    found = session_speed._driver(session, job)
    assert session.model.graph is graph
    assert 0 < found["driver"] < 0.01
    assert found["driver's share"] < 0.5
