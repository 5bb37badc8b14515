"""Every recipe for every target is exported and measured, and a failure fails the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tramontane.bench import parity
from tramontane.console.processes import process_per_core as processes


def row(name: str, verdict: str = "passed") -> dict[str, Any]:
    figures = ["0"] * len(parity.COLUMNS)
    return {
        "name": name,
        "weights": "1 MB",
        "figures": figures,
        "verdict": verdict,
    } | dict.fromkeys(("why", "page", "json"), "")


@pytest.mark.parametrize("cores", [[], [0, 1]])
@pytest.mark.parametrize("parameters", [10**8, 10**8 + 1])
def test_small_models_are_measured_side_by_side_after_the_first(
    two_layers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: list[int],
    parameters: int,
) -> None:
    asked: list[str] = []

    class Pool:
        def __enter__(self) -> Pool:
            asked.append("pool")
            return self

        def __exit__(self, *_: object) -> None:
            asked.append("end")

        map = staticmethod(map)

    def measure(model: Path, out: Path, thorough: bool, quant: str, target: str) -> dict[str, Any]:
        assert (model, out, thorough) == (two_layers, tmp_path, True)
        asked.append(f"{quant}-{target}")
        return row(asked[-1])

    has = parity.Checkpoint.open(two_layers).config.num_parameters
    monkeypatch.setattr(parity, "_MOST_PARAMETERS", has + 10**8 - parameters)
    monkeypatch.setattr(processes, "cores_for", lambda calls: cores if calls == 2 else [])
    monkeypatch.setattr(processes, "process_per_core", lambda *_, **__: Pool())
    monkeypatch.setattr(parity, "_measured", measure)
    cases = [("fp32", "ort"), ("fp32", "web"), ("int8", "ort")]
    found = list(parity.measured(two_layers, tmp_path, cases, thorough=True))
    assert [one["name"] for one in found] == ["fp32-ort", "fp32-web", "int8-ort"]
    is_beside = bool(cores) and parameters == 10**8
    rest = ["fp32-web", "int8-ort"]
    assert asked == ["fp32-ort", *(["pool", *rest, "end"] if is_beside else rest)]


@pytest.mark.parametrize(("verdict", "status"), [("passed", 0), ("failed", 1)])
def test_one_recipe_that_fails_fails_the_command(
    two_layers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdict: str,
    status: int,
) -> None:
    def measured(_model: Path, _out: Path, cases: Any, *, thorough: bool) -> Any:
        assert not thorough
        assert len(set(cases)) == len(cases) > 10
        return (
            row("-".join(case), verdict if case == ("int8", "web") else "passed") for case in cases
        )

    monkeypatch.setattr(parity, "measured", measured)
    assert parity.main([str(two_layers), str(tmp_path)]) == status
    assert "int8-web" in capsys.readouterr().out
    assert "int8-web" in (tmp_path / "index.html").read_text()


@pytest.mark.slow
def test_rows_are_the_same_side_by_side_and_alone(
    two_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [("fp32", "ort"), ("fp32", "portable"), ("int8", "ort")]
    beside = list(parity.measured(two_layers, tmp_path / "a", cases, thorough=False))
    monkeypatch.setattr(parity, "_MOST_PARAMETERS", 0)
    alone = list(parity.measured(two_layers, tmp_path / "b", cases, thorough=False))
    assert json.dumps(beside) == json.dumps(alone)
    assert {one["verdict"] for one in beside} == {"passed"}
