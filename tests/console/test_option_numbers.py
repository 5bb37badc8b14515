"""Are numbers beyond their bounds refused in one line, before anything is run?"""

from __future__ import annotations

import importlib
import sys

import pytest
from tramontane.console.status import EXIT_BAD_INPUT, status_of
from tramontane.fuzz import __main__ as fuzz
from tramontane.torture import __main__ as torture


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e7", "x", "9" * 5000])
def test_a_time_that_is_none_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        status_of(lambda: fuzz.main([f"--seconds={value}"]))
    assert stopped.value.code == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 4096
    assert f"--seconds {value[:100]}" in said
    assert "expected seconds from 0 to 1000000;" in said


@pytest.mark.parametrize("value", ["-1", "1.5", "nan", "10000000000", "9" * 5000])
@pytest.mark.parametrize(
    ("main", "options"),
    [
        (fuzz.main, ("--seed", "--first")),
        (torture.main, ("--kills", "--mutations", "--flips", "--seed", "--jobs")),
    ],
)
def test_a_number_beyond_its_bounds_is_refused(
    main: object, options: tuple[str, ...], value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(main)
    for option in options:
        with pytest.raises(SystemExit) as stopped:
            main([f"{option}={value}"])
        assert stopped.value.code == EXIT_BAD_INPUT
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "expected a whole number from " in said


BENCHMARKS: dict[str, tuple[str, ...]] = {
    "bench.quality.__main__": ("--positions", "--threads"),
    "bench.kernels.__main__": ("--rounds", "--threads"),
    "bench.export.__main__": ("--tokens",),
    "bench.peers.__main__": ("--threads",),
    "bench.peers.gguf_types": ("--threads",),
    "bench.gate_cost": ("--tokens",),
    "bench.artifact.long_context": ("--tokens", "--threads"),
    "bench.artifact.relative_speed": ("--threads",),
    "bench.artifact.turns": ("--threads", "--rounds"),
    "deploy.reduced_build": ("--tokens",),
}


@pytest.mark.parametrize("value", ["0", "100000000000", "nan"])
@pytest.mark.parametrize("module", BENCHMARKS)
def test_a_benchmark_refuses_what_would_take_all_memory_or_no_time(
    module: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.import_module(f"tramontane.{module}")
    for option in BENCHMARKS[module]:
        monkeypatch.setattr(sys, "argv", ["a benchmark", f"{option}={value}"])
        with pytest.raises(SystemExit):
            found.main()
        said = capsys.readouterr().err
        assert f"{option} {value}: expected a whole number from 1 to " in said


def test_torture_needs_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        torture.main(["--jobs=0"])
    assert "--jobs 0: expected a whole number from 1 to 256;" in capsys.readouterr().err
