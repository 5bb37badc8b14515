"""How do a terminal and a CI system show a verdict? As a table, as Markdown, as JUnit XML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

_FIGURES = {
    "max_logit_difference": "max |Δlogit|",
    "mean_kl": "mean KL",
    "same_top": "same top",
}
# What tells most of the other kinds of checks.
_ERRORS = ("typical_cache_error", "weight_error", "operator_error", "row_error")


def print_table(report: dict[str, Any]) -> None:
    """One line per check, and what the first tensor at fault is."""
    table = Table("check", *_FIGURES.values(), "error", "verdict")
    for check in report["checks"]:
        table.add_row(check["name"], *_cells(check), "\n".join(check["failures"]) or _ok(check))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)
    for line in [*_remarks(report), _verdict(report)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def as_markdown(report: dict[str, Any]) -> str:
    """A summary that CI systems show beside a run; failed checks first."""
    artifact, head = report["artifact"], report["headline"]
    verdict = "passed" if report["passed"] else "FAILED"
    lines = [f"## Parity of {artifact['name']}: {verdict}", ""]
    scale = report["tolerance"]["scale"]
    if scale != 1:
        lines += [f"**All bounds were scaled by {scale:g}.**", ""]
    lines += [f"- {remark}" for remark in _remarks(report)] + [""]
    lines += ["| figure | worst |", "| --- | ---: |"]
    lines += [f"| {name} | {value} |" for name, value in head.items()]
    titles = ["check", *_FIGURES.values(), "error", "verdict"]
    lines += ["", "| " + " | ".join(title.replace("|", "\\|") for title in titles) + " |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | --- |"]
    for check in sorted(report["checks"], key=lambda one: not one["failures"]):
        verdict = "; ".join(check["failures"]) or _ok(check)
        cells = [check["name"], *_cells(check), verdict]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def as_junit(report: dict[str, Any]) -> str:
    """One test case per check. Source: the JUnit XML that Jenkins' and GitLab's readers take."""
    checks = report["checks"]
    failed = sum(bool(check["failures"]) for check in checks)
    counts = {"tests": str(len(checks)), "failures": str(failed)}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": f"parity of {report['artifact']['name']}", **counts}
    )
    for check in checks:
        name = f"tramontane.parity.{check['kind']}"
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": name, "name": check["name"], "time": "0"}
        )
        if check["failures"]:
            message = "; ".join(check["failures"])
            failure = ElementTree.SubElement(case, "failure", {"message": message})
            failure.text = "\n".join(_remarks(report)) or message
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cells(check: dict[str, Any]) -> list[str]:
    figures = check["figures"]
    cells = [_shown(figures.get(name)) if name in figures else "" for name in _FIGURES]
    if "same_top" in figures and figures["same_top"] is not None:
        cells[-1] = f"{figures['same_top']:.2%}"
    if check["kind"] == "greedy":
        cells[-1] = f"{figures['same_greedy_tokens']} of {figures['greedy_tokens']}"
    error = next((name for name in _ERRORS if name in figures), None)
    return [*cells, "" if error is None else _shown(figures[error])]


def _ok(check: dict[str, Any]) -> str:
    return "ok" if check["bounds"] else "no bound"


def _verdict(report: dict[str, Any]) -> str:
    """One line, last: whether it passed."""
    checks, name = report["checks"], report["artifact"]["name"]
    failed = sum(bool(check["failures"]) for check in checks)
    if failed:
        return f"FAILED: {name}: {failed} of {len(checks)} checks are beyond their bounds"
    return f"passed: {name}: all {len(checks)} checks keep their bounds"


def _shown(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.2e}"


def _remarks(report: dict[str, Any]) -> Sequence[str]:
    why = report["explanation"]
    remarks = [f"note: {note}" for note in report["notes"]]
    if why is not None:
        remarks += [
            f"first at fault: {why['place']}: error {_shown(why['error'])}, allowed "
            f"{why['bound']:.2e}",
            f"likely cause: {why['cause'] or 'no known pattern fits'}",
            *([f"evidence: {why['evidence']}"] if why["evidence"] else []),
        ]
    elif not report["passed"]:
        remarks.append("--explain looks for the first tensor at fault, and for the cause")
    return remarks
