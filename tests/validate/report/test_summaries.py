"""Do terminals and CI systems get the verdict, whole and well-formed?"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from tramontane.validate.report.summaries import as_junit, as_markdown, print_verdict


@pytest.fixture
def report() -> dict[str, Any]:
    """A failed check between two that passed, and why."""
    logits = {"max_logit_difference": 0.25, "mean_kl": None, "same_top": 0.975}
    return {
        "passed": False,
        "artifact": {"name": "a|b"},
        "headline": {
            "distance": "poor", "mean_kl": 0.5, "same_top": 0.975, "perplexity_ratio": 1.25,
            "mean_kl_on_random_tokens": None, "max_logit_difference": 0.25,
            "same_greedy_tokens": 9, "greedy_tokens": 9,
        },
        "tolerance": {"scale": 2.0, "max_kl": 2.0, "min_agreement": 0.2},
        "notes": ["looked into layers 0, 3"],
        "checks": [
            {"name": "greedy, 9 tokens", "kind": "greedy", "failures": [],
             "figures": {"same_greedy_tokens": 9, "greedy_tokens": 9}, "bounds": {}},
            {"name": "text, <one> shot", "kind": "logits", "figures": logits,
             "bounds": {"max_logit_difference": 1.0, "mean_kl": 0.001},
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
    assert (root.attrib["tests"], root.attrib["failures"]) == ("2", "1")  # greedy has no bound
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
    rows = [line for line in text.splitlines() if line.endswith("| ok |")]
    assert rows
    assert all(line.count("|") == 7 for line in rows)


def test_the_table_has_figures_beside_bounds_and_as_many_checks_as_the_verdict(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_verdict(report)
    out = capsys.readouterr().out
    assert out.startswith("FAILED: a|b: 1 of 2 checks failed\n")
    rows = [[cell.strip() for cell in line.split("│")] for line in out.splitlines()]
    cells = {row[1]: row[2:] for row in rows if len(row) > 2}
    assert cells["top-1 agreement on text"][:2] == ["97.50%", ">= 20%"]
    assert cells["mean KL on random tokens, nats"][:2] == ["not a number", ""]
    assert cells["greedy tokens that agree"][0] == "9 of 9"
    assert cells["weights"][0] == "1"
    assert cells["weights"][2:4] == ["1.0e-04", "<= 1.0e-03"]
    assert cells["logits"][2:4] == ["not a number", "<= 1.0e-03"]
    assert sum(int(row[0]) for row in cells.values() if row[0].isdigit()) == 2
    assert "FAILED: text, <one> shot: mean KL nan > 0.001; same top" in out


def test_the_table_tells_the_cause_and_what_was_not_looked_at(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_verdict(report)
    out = capsys.readouterr().out
    for said in ("9 of 9", "first at fault: layer 0, rope", "note: looked into layers 0, 3"):
        assert said in out
    assert max(map(len, out.splitlines())) <= 80
    report["explanation"] = None
    print_verdict(report)
    assert "--explain finds the first bad tensor" in capsys.readouterr().out
