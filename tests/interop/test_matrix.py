"""Tests of the matrix: it shows every cell as it was judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tramontane.interop.judge import Cell
from tramontane.interop.matrix import Matrix

DOCS = Path(__file__).parents[2] / "docs"
RUNTIMES = ["tramontane", "other", "page"]


@pytest.fixture
def matrix() -> Matrix:
    made = Matrix(RUNTIMES)
    made.add("a fp32", "tramontane", Cell(said="same tokens, text", versions={"numpy": "2.0"}))
    made.add("a fp32", "page", Cell(said="npm: not on PATH", is_absent=True))
    made.add("a int8", "tramontane", Cell(said="same tokens", versions={"numpy": "2.1"}))
    made.add("a int8", "other", Cell(said="prompt 0, token 3: 5, expected 6", is_failure=True))
    return made


def test_wrong_cells_alone_are_failures_named_with_artifact_and_runtime(matrix: Matrix) -> None:
    assert matrix.failures == ["a int8, other: prompt 0, token 3: 5, expected 6"]
    assert not Matrix(RUNTIMES).failures


def test_what_is_absent_is_named_once_with_its_reason(matrix: Matrix) -> None:
    matrix.add("a int8", "page", Cell(said="npm: not on PATH", is_absent=True))
    assert matrix.absent == {"page": "npm: not on PATH"}


def test_an_artifact_that_was_left_out_is_absent_and_has_no_row(matrix: Matrix) -> None:
    matrix.leave_out("stories", "it is not in shared")
    assert matrix.absent == {"page": "npm: not on PATH", "stories": "it is not in shared"}
    assert list(matrix.rows) == ["a fp32", "a int8"]
    assert "- stories was absent: it is not in shared" in matrix.as_markdown("make").splitlines()
    assert json.loads(matrix.to_json())["absent"]["stories"] == "it is not in shared"


def test_versions_are_told_by_those_that_answered(matrix: Matrix) -> None:
    assert matrix.versions == {"tramontane": {"numpy": "2.1"}}


def test_markdown_has_a_row_an_artifact_and_a_column_a_runtime(matrix: Matrix) -> None:
    lines = matrix.as_markdown("make interop").splitlines()
    assert lines[0] == "# How each runtime ran each artifact"
    assert lines[2] == "Printed by `make interop`."
    start = next(at for at, line in enumerate(lines) if line.startswith("|"))
    assert lines[start : start + 5] == [
        "| | tramontane | other | page |",
        "| --- | --- | --- | --- |",
        "| a fp32 | same tokens, text | - | absent |",
        "| a int8 | same tokens | FAILED: prompt 0, token 3: 5, expected 6 | - |",
        "",
    ]
    assert "- tramontane: numpy 2.1" in lines
    assert lines[-1] == "- page was absent: npm: not on PATH"


def test_the_page_in_docs_has_the_words_that_are_printed_now(matrix: Matrix) -> None:
    page = (DOCS / "interop.md").read_text("utf-8").splitlines()
    printed = matrix.as_markdown("make interop").splitlines()
    words = printed[: printed.index("| --- | --- | --- | --- |") - 1]
    assert page[: len(words)] == words


def test_a_bar_in_a_cell_starts_no_column() -> None:
    matrix = Matrix(["other"])
    matrix.add("a fp32", "other", Cell(said="text 'a | b', expected 'a'", is_failure=True))
    assert r"| a fp32 | FAILED: text 'a \| b', expected 'a' |" in matrix.as_markdown("make")


def test_json_is_one_line_that_says_whether_all_passed(matrix: Matrix) -> None:
    assert "\n" not in matrix.to_json()
    assert json.loads(matrix.to_json()) == {
        "passed": False,
        "failures": matrix.failures,
        "absent": {"page": "npm: not on PATH"},
        "versions": {"tramontane": {"numpy": "2.1"}},
        "cells": {
            "a fp32": {"tramontane": "same tokens, text", "page": "npm: not on PATH"},
            "a int8": {"tramontane": "same tokens", "other": "prompt 0, token 3: 5, expected 6"},
        },
    }
    matrix.add("a int8", "other", Cell(said="same tokens"))
    assert json.loads(matrix.to_json())["passed"]  # an absent runtime is no failure


def test_the_table_shows_brackets_of_a_wrong_text_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    matrix = Matrix(["other", "page"])
    matrix.add("a", "other", Cell(said="text '[/i]', expected 'x[i]'", is_failure=True))
    matrix.print_table()
    printed = capsys.readouterr().out
    assert "FAILED: text '[/i]', expected 'x[i]'" in printed
    assert "page" not in printed  # not tried
