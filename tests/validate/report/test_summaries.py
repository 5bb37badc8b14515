"""Do terminals and CI systems get the verdict, whole and well-formed?"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from tramontane.validate.report.summaries import as_junit, as_markdown, print_table


@pytest.fixture
def report() -> dict[str, Any]:
    """A failed check between two that passed, and why."""
    logits = {"max_logit_difference": 0.25, "mean_kl": None, "same_top": 0.975}
    return {
        "passed": False,
        "artifact": {"name": "a|b"},
        "headline": {"distance": "poor", "mean_kl": 0.5},
        "tolerance": {"scale": 2.0},
        "notes": ["looked into layers 0, 3"],
        "checks": [
            {"name": "greedy, 9 tokens", "kind": "greedy", "failures": [],
             "figures": {"same_greedy_tokens": 9, "greedy_tokens": 9}, "bounds": {}},
            {"name": "text, <one> shot", "kind": "logits", "figures": logits, "bounds": {},
             "failures": ["mean KL nan > 0.001", "same top"]},
            {"name": "weights", "kind": "weights", "figures": {"weight_error": 1e-4},
             "bounds": {"weight_error": 1e-3},
             "failures": []},
        ],
        "explanation": {"place": "layer 0, rope", "error": 1.5, "bound": 2e-5,
                        "cause": "theta", "evidence": "with this change", "advice": ""},
    }  # fmt: skip


def test_junit_has_a_case_for_each_check_and_the_cause_in_the_failure(
    report: dict[str, Any],
) -> None:
    root = ElementTree.fromstring(as_junit(report))
    assert (root.attrib["tests"], root.attrib["failures"]) == ("3", "1")
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert cases["text, <one> shot"].attrib["classname"] == "tramontane.parity.logits"
    failure = cases["text, <one> shot"].find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "mean KL nan > 0.001; same top"
    assert "likely cause: theta" in (failure.text or "")
    assert cases["weights"].find("failure") is None


def test_markdown_puts_failures_first_and_a_scaled_tolerance_in_bold(
    report: dict[str, Any],
) -> None:
    text = as_markdown(report)
    assert text.startswith("## Parity of a|b: FAILED\n")
    assert "**The recipe's bounds were scaled by 2.**" in text
    assert text.index("text, <one> shot") < text.index("greedy, 9 tokens")
    assert "| text, <one> shot | 2.50e-01 | not a number | 97.50% |" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "ok" in line]
    assert all(line.count("|") == 7 for line in rows)


def test_the_table_tells_the_cause_and_what_was_not_looked_at(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(report)
    out = capsys.readouterr().out
    for said in ("9 of 9", "first at fault: layer 0, rope", "note: looked into layers 0, 3"):
        assert said in out
    report["explanation"] = None
    print_table(report)
    assert "--explain finds the first bad tensor" in capsys.readouterr().out
