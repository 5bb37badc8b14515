"""Tests of the plan: which artifacts are made for which runtimes, and how long it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tramontane.interop.cases import MatrixCase, cases
from tramontane.interop.matrix_plan import choose
from tramontane.interop.runtimes import COLUMNS
from tramontane.runtime.errors import ContractError

USUAL = ["fp32 ort", "int8 ort", "int4 ort"]
GROWING = ["fp32 ort growing", "int8 ort growing", "int4 ort growing"]
ON_ARM = ["tramontane, arm64", "onnxruntime, arm64", "tramontane, arm64 with i8mm"]


@pytest.fixture
def everything(tmp_path: Path) -> list[MatrixCase]:
    return list(cases(Path("models/stdlib-5m"), tmp_path))


def test_without_a_choice_every_artifact_is_made_and_every_runtime_runs(
    everything: list[MatrixCase],
) -> None:
    plan = choose(everything, COLUMNS)
    assert [case for case, _ in plan.rows] == everything
    assert plan.columns == [column.name for column in COLUMNS]


@pytest.mark.parametrize(
    ("only", "columns", "made"),
    [
        ("genai", ["onnxruntime-genai"], USUAL),
        ("optimum", ["optimum"], GROWING),
        ("WebGPU", ["WebGPU in Chromium"], GROWING),
        ("page", ["page in Chromium"], ["fp32 ort"]),  # int8 needs the tokens of its kernels
        ("web page", ["onnxruntime-web", "page in Chromium"], ["fp32 ort", "int8 web in files"]),
        ("arm64", ON_ARM, USUAL),
    ],
)
def test_a_runtime_gets_the_artifacts_that_are_usual_for_it(
    everything: list[MatrixCase], only: str, columns: list[str], made: list[str]
) -> None:
    plan = choose(everything, COLUMNS, only=only.split())
    assert plan.columns == columns
    assert [case.name for case, _ in plan.rows] == [f"stdlib-5m {name}" for name in made]


def test_all_artifacts_of_one_runtime_can_be_asked_for(everything: list[MatrixCase]) -> None:
    plan = choose(everything, COLUMNS, only=["genai"], artifacts="all")
    assert [case for case, _ in plan.rows] == everything


def test_artifacts_are_chosen_by_the_words_of_their_names(everything: list[MatrixCase]) -> None:
    plan = choose(everything, COLUMNS, artifacts="int8 web, int4 growing, no window")
    assert [case.name for case, _ in plan.rows] == [
        "stdlib-5m int8 web in files",
        "stdlib-5m int4 ort growing",
        "stories15M fp32 ort, no window",
    ]


def test_the_plan_says_what_is_made_for_whom_and_how_long_it_takes(
    everything: list[MatrixCase],
) -> None:
    plan = choose(everything, COLUMNS, only=["genai"])
    first, *artifacts, last = plan.lines()
    assert first == "3 artifacts, 1 runtime: about 1 minute on 2 cores"
    assert artifacts == [f"  stdlib-5m {name}: onnxruntime-genai" for name in USUAL]
    assert last.startswith("the first use of a runtime also installs it")
    assert choose(everything, COLUMNS).seconds > 5 * plan.seconds


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"only": ["pytroch"]}, "^pytroch: no such runtime, expected one of tramontane; "),
        ({"artifacts": "int5"}, "^--artifacts int5: no such artifact, expected one of stdlib-5m "),
        (
            {"only": ["optimum"], "artifacts": "int8 web"},
            "^--only optimum --artifacts 'int8 web': no such runtime can run such an artifact; omit",
        ),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(
    everything: list[MatrixCase], choice: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        choose(everything, COLUMNS, **choice)  # type: ignore[arg-type]
