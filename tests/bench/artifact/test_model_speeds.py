"""Are speeds of known models projected from stand-ins, stored once, and printed for the page?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tramontane.bench.artifact import model_speeds
from tramontane.bench.artifact.stored_speeds import (
    DECODE,
    PREFILL,
    SpeedCase,
    projected,
    speed_lines,
    store,
    stored_rows,
)
from tramontane.bench.pages import models as models_page
from tramontane.runtime.errors import ConfigError, ContractError

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "threads": 2,
    "memory_bytes": 24 << 30,
    "system": "Linux",
    "versions": {"onnxruntime": "1"},
}
FEW = SpeedCase(geometry="llama-3.2-1b", quant="int8", layers=(2, 4), rounds=1, machine=MACHINE)
WHOLE = dataclasses.replace(FEW, layers=(16,))


def seconds(**times: float) -> dict[str, float]:
    return {PREFILL: times["prefill"], DECODE: times["decode"]}


# A layer takes 0.5 s and 1 ms, the rest 1 s and 8 ms.
STAND_INS = [{2: seconds(prefill=2.0, decode=0.010), 4: seconds(prefill=3.0, decode=0.012)}]
MEASURED = [{16: seconds(prefill=10.0, decode=0.025)}]


def rows_of(case: SpeedCase, rounds: list[Any], path: Path) -> list[dict[str, Any]]:
    store(path, case, rounds)
    return stored_rows(path)


def test_a_model_takes_the_rest_and_all_its_layers(tmp_path: Path) -> None:
    (row,) = rows_of(FEW, STAND_INS, tmp_path / "speeds.json")
    prefill, decode = projected(row, PREFILL), projected(row, DECODE)
    assert prefill is not None
    assert decode is not None
    assert prefill.median == pytest.approx(256 / (1.0 + 16 * 0.5))
    assert decode.median == pytest.approx(1 / (0.008 + 16 * 0.001))


def test_what_all_layers_took_is_not_projected(tmp_path: Path) -> None:
    (row,) = rows_of(WHOLE, MEASURED, tmp_path / "speeds.json")
    found = projected(row, PREFILL)
    assert found is not None
    assert found.values == (pytest.approx(25.6),)


def test_times_that_do_not_grow_with_layers_give_no_speed(tmp_path: Path) -> None:
    rounds = [*STAND_INS, {each: seconds(prefill=2.0, decode=0.01) for each in (2, 4)}]
    (row,) = rows_of(FEW, rounds, tmp_path / "speeds.json")
    assert projected(row, PREFILL) is None
    assert "not measurable" in "\n".join(speed_lines([row]))


def test_a_new_measurement_replaces_that_of_the_same_model_alone(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    others = (FEW, WHOLE, dataclasses.replace(FEW, quant="int4-rtn"))
    for case in others:
        store(path, case, STAND_INS if case is not WHOLE else MEASURED)
    again = dataclasses.replace(FEW, machine={**MACHINE, "cores": 4})
    found = [row["case"] for row in rows_of(again, STAND_INS, path)]
    assert sorted(map(json.dumps, found)) == sorted(
        json.dumps(case.as_json()) for case in (again, *others[1:])
    )


def test_the_section_marks_what_is_projected_and_shows_the_error(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    assert speed_lines(stored_rows(path)) == []
    lines = speed_lines(rows_of(FEW, STAND_INS, path))
    assert any(
        line.startswith("| llama-3.2-1b | 16, projected from 2 and 4 | 28.4 (") for line in lines
    )
    assert "Measured on: a processor, 2 cores, 2 threads, 24 GiB, Linux, onnxruntime 1." in lines
    assert not any("difference |" in line for line in lines)
    lines = speed_lines(rows_of(WHOLE, MEASURED, path))
    shown = "| llama-3.2-1b | 16 | 25.6 (25.6 to 25.6) | 40 (40 to 40) |"
    assert shown in lines
    compared = (
        "| llama-3.2-1b | int8 | prefill | 28.4 (28.4 to 28.4) | 25.6 (25.6 to 25.6) | +11.1% |"
    )
    assert compared in lines


def test_layers_of_stand_ins_are_named_for_a_recipe_that_has_others(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    rows_of(FEW, STAND_INS, path)
    others = [{layers + 2: times for layers, times in each.items()} for each in STAND_INS]
    other = dataclasses.replace(FEW, quant="int4-rtn", layers=(4, 6))
    text = "\n".join(speed_lines(rows_of(other, others, path)))
    assert "| llama-3.2-1b | 16, projected from 2 and 4 (int4-rtn: 4 and 6) |" in text


def test_speeds_of_two_machines_stand_in_two_tables(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    rows_of(FEW, STAND_INS, path)
    other = dataclasses.replace(
        FEW, geometry="smollm2-360m", machine={**MACHINE, "instructions": "AVX2"}
    )
    text = "\n".join(speed_lines(rows_of(other, STAND_INS, path)))
    _, first, second = text.split("Measured on: a processor")
    assert "llama-3.2-1b" in first
    assert "smollm2-360m" not in first
    assert second.startswith(" (AVX2), ")
    assert "| smollm2-360m |" in second
    assert "| llama-3.2-1b |" not in second


def test_the_page_has_the_section_of_the_stored_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "speeds.json"
    monkeypatch.setattr(models_page, "STORED", path)
    monkeypatch.setattr(models_page, "geometry_lines", list)  # which take seconds
    assert "## Speeds of known geometries" not in models_page.as_markdown([], [])
    lines = speed_lines(rows_of(FEW, STAND_INS, path))
    assert models_page.as_markdown([], []).endswith("\n".join(["", *lines, ""]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("{}", "rows is missing, expected a value"),
        ('{"rows": [{}]}', r"rows\[0\].case is missing, expected a value"),
        ('{"rows": 1}', "rows is 1, expected a list"),
    ],
)
def test_another_file_is_named(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "speeds.json"
    path.write_text(content)
    with pytest.raises(ContractError, match=f"^{path}: {said}.*; name another --stored"):
        stored_rows(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"geometry": "none"}, "case.geometry is 'none', expected a known model"),
        (
            {"layers": [2, 17]},
            r"case.layers is \[2, 17\], expected one or two numbers from 1 to 16",
        ),
        ({"layers": [2, 3]}, "seconds is .*, expected rounds of times above 0 for layers 2, 3"),
        ({"layers": []}, r"case.layers is \[\], expected one or two numbers"),
        ({"protocol": {"tokens": 0}}, "case.protocol.tokens is below 1, expected more"),
    ],
)
def test_a_row_whose_fields_do_not_belong_together_is_named(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "speeds.json"
    store(path, FEW, STAND_INS)
    content = json.loads(path.read_text())
    content["rows"][0]["case"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ContractError, match=rf"^{path}: rows\[0\]\.{said}.*; name another --stor"):
        stored_rows(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "4", "4"], "--layers 4 4: expected a larger second number"),
        (["--layers", "0", "4"], "--layers 0 4: expected a larger second number of at least 1"),
        (["--rounds", "0"], "--rounds 0: expected 1 or more"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
    ],
)
def test_bad_options_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        model_speeds.main(words)
    assert message.partition(" of at")[0] in capsys.readouterr().err


@pytest.mark.parametrize("words", [["none"], ["stdlib-5m", "--layers", "2", "99"]])
def test_unknown_models_and_layers_are_refused_before_any_is_measured(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        model_speeds.main(words)


@pytest.mark.slow
def test_a_small_model_is_measured_and_not_a_second_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stored, work = tmp_path / "speeds.json", tmp_path / "work"
    words = ["stdlib-5m", "--whole", "--layers", "1", "2", "--quants", "int8", "--rounds", "1"]
    words += ["--threads", "1", f"--stored={stored}", f"--work={work}"]
    assert model_speeds.main(words) == 0
    first = capsys.readouterr().out
    assert "| stdlib-5m | " in first
    assert list(work.iterdir()) == []
    (row,) = stored_rows(stored)
    assert row["seconds"][0].keys() == {"1", "2"}
    assert all(each[what] > 0 for each in row["seconds"][0].values() for what in (PREFILL, DECODE))

    def refused(*_: object, **__: object) -> Callable[..., None]:
        raise AssertionError("it is stored already")

    monkeypatch.setattr(model_speeds, "synthesize", refused)
    assert model_speeds.main(words) == 0
    assert capsys.readouterr().out == first
