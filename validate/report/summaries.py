"""A verdict as a terminal table, Markdown and JUnit XML."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

from rich.table import Table

from ...console.rich_console import rich_console
from ...export.parity_labels import PARITY_LABELS, figure_text, parity_rows
from ..tokenizer import check_tokenizer
from ..verdict import (
    COMPARED,
    FIGURE_LABELS,
    WORDS,
    Check,
    checks_of,
    closest_to_bound,
    is_share,
    judged_checks,
    number_of,
)

_FIGURES = {
    "max_logit_difference": "max |Δlogit|",
    "mean_kl": "mean KL",
    "same_top": "top-1 agreement",
}
# The most important figure of the other kinds of checks.
_ERRORS = (
    "mean_cache_error",
    "greedy_gap",
    "weight_error",
    "rounding_error",
    "operator_error",
    "row_error",
    check_tokenizer.FIGURE,
)
_WIDTH = 80  # columns, where the output is no terminal
_WRAPPER = textwrap.TextWrapper(
    _WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
)


def print_verdict(report: dict[str, Any]) -> None:
    """What follows an export or a validation: verdict, figures beside their bounds, cause."""
    print(verdict_line(report))
    _print_wrapped(f"note: {note}" for note in report["notes"])
    console = rich_console() if sys.stdout.isatty() else rich_console(width=_WIDTH)
    console.print(_distance_table(report))
    checks = judged_checks(checks_of(report))
    console.print(_checks_table(checks))
    failed = [check for check in checks if check.failures]
    _print_wrapped(f"FAILED: {check.name}: {'; '.join(check.failures)}" for check in failed)
    print("".join(f"{line}\n" for line in _cause(report)), end="")  # commands are not wrapped
    _print_wrapped([WORDS, COMPARED])


def _distance_table(report: dict[str, Any]) -> Table:
    """How far the artifact is from the float32 model."""
    bounds = report["tolerance"]
    bounded = {
        "mean_kl": f"<= {bounds['max_kl']:g}",
        "same_top": f">= {bounds['min_agreement']:.0%}",
    }
    head = report["headline"]
    table = Table("distance from the float32 model", "found", "bound")
    for name, (label, _) in PARITY_LABELS.items():
        table.add_row(label, figure_text(name, head), bounded.get(name, ""))
    return table


def _checks_table(checks: Sequence[Check]) -> Table:
    """How many checks of each kind there are, and which comes closest to failing."""
    table = Table("kind of check", "count", "figure closest to its bound", "found", "bound")
    for kind in dict.fromkeys(check.kind for check in checks):
        alike = [check for check in checks if check.kind == kind]
        closest = closest_to_bound(alike)
        if closest is None:
            failed = next(check for check in alike if check.failures)
            table.add_row(kind, str(len(alike)), f"nothing measured: {failed.name}", "", "")
            continue
        check, figure = closest
        table.add_row(
            kind,
            str(len(alike)),
            f"{FIGURE_LABELS[figure]}: {check.name}",
            _shown(check.figures[figure], digits=1),
            f"{'>=' if is_share(figure) else '<='} {_shown(check.bounds[figure], digits=1)}",
        )
    return table


def _print_wrapped(lines: Iterable[str]) -> None:
    """Print lines, each wrapped at words; what continues a line is indented."""
    for line in lines:
        print(_WRAPPER.fill(line))


def as_markdown(report: dict[str, Any]) -> str:
    """A summary that CI systems show beside a run; failed checks first."""
    artifact, head = report["artifact"], report["headline"]
    verdict = "passed" if report["passed"] else "FAILED"
    lines = [f"## Parity of {artifact['name']}: {verdict}", ""]
    scale = report["tolerance"]["scale"]
    if scale != 1:
        lines += [f"**The recipe's bounds were scaled by {scale:g}.**", ""]
    lines += [f"- {remark}" for remark in _remarks(report)] + [""]
    lines += [f"| distance from the float32 model | {head['distance']} |", "| --- | ---: |"]
    lines += [f"| {_in_cell(label)} | {value} |" for label, value in parity_rows(head)]
    titles = ["check", *_FIGURES.values(), "error", "verdict"]
    lines += ["", "| " + " | ".join(map(_in_cell, titles)) + " |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | --- |"]
    for check in sorted(report["checks"], key=lambda one: not one["failures"]):
        verdict = "; ".join(check["failures"]) or _ok(check)
        cells = [check["name"], *_cells(check), verdict]
        lines.append("| " + " | ".join(map(_in_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def as_junit(report: dict[str, Any]) -> str:
    """One test case per check that has a bound.

    Source: the JUnit XML that Jenkins' and GitLab's readers take.
    """
    checks = judged_checks(checks_of(report))
    failed = sum(bool(check.failures) for check in checks)
    counts = {"tests": str(len(checks)), "failures": str(failed)}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": f"parity of {report['artifact']['name']}", **counts}
    )
    for check in checks:
        name = f"tramontane.parity.{check.kind}"
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": name, "name": check.name, "time": "0"}
        )
        if check.failures:
            message = "; ".join(check.failures)
            failure = ElementTree.SubElement(case, "failure", {"message": message})
            failure.text = "\n".join(_remarks(report)) or message
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _cells(check: dict[str, Any]) -> list[str]:
    figures = check["figures"]
    cells = [_shown(figures.get(name)) if name in figures else "" for name in _FIGURES]
    if "same_top" in figures and figures["same_top"] is not None:
        cells[-1] = f"{figures['same_top']:.2%}"
    if "greedy_tokens" in figures:
        cells[-1] = f"{figures['same_greedy_tokens']} of {figures['greedy_tokens']}"
    error = next((name for name in _ERRORS if name in figures), None)
    return [*cells, "" if error is None else _shown(figures[error])]


def _ok(check: dict[str, Any]) -> str:
    return "ok" if check["bounds"] else "no bound"


def verdict_line(report: dict[str, Any]) -> str:
    """Whether all checks passed, and how near the artifact is to the float32 model."""
    checks, name = judged_checks(checks_of(report)), report["artifact"]["name"]
    failed = sum(bool(check.failures) for check in checks)
    if failed:
        return f"FAILED: {name}: {failed} of {len(checks)} checks failed"
    distance = report["headline"]["distance"]
    return f"passed: {name}: all {len(checks)} checks; distance from the float32 model: {distance}"


def _shown(value: float | None, *, digits: int = 2) -> str:
    found = number_of(value)
    return "not a number" if math.isnan(found) else f"{found:.{digits}e}"


def _cause(report: dict[str, Any]) -> list[str]:
    """Why checks failed, as far as that was asked for; empty where they passed."""
    why = report["explanation"]
    if why is not None:
        return [
            f"first at fault: {why['place']}: found {_shown(why['error'])}, allowed "
            f"{why['bound']:.2e}",
            f"likely cause: {why['cause'] or 'no known pattern fits'}",
            *([f"evidence: {why['evidence']}"] if why["evidence"] else []),
            *([f"what to do: {why['advice']}"] if why["advice"] else []),
        ]
    if not report["passed"]:
        return ["--explain finds the first bad tensor and the likely cause"]
    return []


def _remarks(report: dict[str, Any]) -> list[str]:
    return [*(f"note: {note}" for note in report["notes"]), *_cause(report)]
