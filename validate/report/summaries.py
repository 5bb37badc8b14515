"""A verdict as a terminal table, Markdown and JUnit XML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from ..verdict import COMPARED, WORDS

_FIGURES = {
    "max_logit_difference": "max |Δlogit|",
    "mean_kl": "mean KL",
    "same_top": "top-1 agreement",
}
# The most important figure of the other kinds of checks.
_ERRORS = ("mean_cache_error", "greedy_gap", "weight_error", "operator_error", "row_error")


def print_table(report: dict[str, Any]) -> None:
    """One line per check, and the explanation."""
    table = Table("check", *_FIGURES.values(), "error", "verdict")
    for check in report["checks"]:
        table.add_row(check["name"], *_cells(check), "\n".join(check["failures"]) or _ok(check))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)
    for line in [*_remarks(report), verdict_line(report)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_summary(report: dict[str, Any]) -> None:
    """The verdict in one line, then the figures with their bounds: what follows an export."""
    print(verdict_line(report))
    for note in report["notes"]:
        print(f"note: {note}")
    head, bounds = report["headline"], report["tolerance"]
    table = Table("distance from the float32 model", "found", "bound")
    for name, found, bound in (
        ("mean KL on text, nats", f"{head['mean_kl']:.1e}", f"<= {bounds['max_kl']:g}"),
        (
            "top-1 agreement on text",
            f"{head['same_top']:.1%}",
            f">= {bounds['min_agreement']:.0%}",
        ),
        ("perplexity ratio on text", f"{head['perplexity_ratio']:.4f}", ""),
        ("mean KL on random tokens, nats", f"{head['mean_kl_on_random_tokens']:.1e}", ""),
        (
            "greedy tokens that agree",
            f"{head['same_greedy_tokens']} of {head['greedy_tokens']}",
            "",
        ),
    ):
        table.add_row(name, found, bound)
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table)
    table = Table(
        "artifact compared with its recipe", "checks", "nearest to its bound", "found", "bound"
    )
    for kind, checks in _by_kind(report).items():
        figure, check = _nearest(checks)
        table.add_row(
            kind,
            str(len(checks)),
            check["name"],
            f"{check['figures'][figure]:.1e}",
            f"<= {check['bounds'][figure]:.1e}",
        )
    console.print(table)
    print(f"{WORDS}; {COMPARED}")


def _by_kind(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Bounded checks of the artifact against its recipe, by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for check in report["checks"]:
        if check["bounds"] and check["kind"] != "distance":
            found.setdefault(check["kind"], []).append(check)
    return found


def _nearest(checks: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The figure, and its check, that is the largest share of its bound."""
    pairs = [(figure, check) for check in checks for figure in check["bounds"]]
    return max(pairs, key=lambda one: one[1]["figures"][one[0]] / one[1]["bounds"][one[0]])


def as_markdown(report: dict[str, Any]) -> str:
    """A summary that CI systems show beside a run; failed checks first."""
    artifact, head = report["artifact"], report["headline"]
    verdict = "passed" if report["passed"] else "FAILED"
    lines = [f"## Parity of {artifact['name']}: {verdict}", ""]
    scale = report["tolerance"]["scale"]
    if scale != 1:
        lines += [f"**The recipe's bounds were scaled by {scale:g}.**", ""]
    lines += [f"- {remark}" for remark in _remarks(report)] + [""]
    lines += ["| distance from the float32 model | |", "| --- | ---: |"]
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


def verdict_line(report: dict[str, Any]) -> str:
    """Whether all checks passed, and how near the artifact is to the float32 model."""
    checks, name, head = report["checks"], report["artifact"]["name"], report["headline"]
    failed = sum(bool(check["failures"]) for check in checks)
    if failed:
        return f"FAILED: {name}: {failed} of {len(checks)} checks failed"
    bounds = report["tolerance"]
    return (
        f"passed: {name}: {len(checks)} of {len(checks)} checks; distance from the float32 model: "
        f"{head['distance']} (top-1 agreement {head['same_top']:.1%}, >= "
        f"{bounds['min_agreement']:.0%}; mean KL {head['mean_kl']:.1e} nats, <= "
        f"{bounds['max_kl']:g})"
    )


def _shown(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.2e}"


def _remarks(report: dict[str, Any]) -> Sequence[str]:
    why = report["explanation"]
    remarks = [f"note: {note}" for note in report["notes"]]
    if why is not None:
        remarks += [
            f"first at fault: {why['place']}: found {_shown(why['error'])}, allowed "
            f"{why['bound']:.2e}",
            f"likely cause: {why['cause'] or 'no known pattern fits'}",
            *([f"evidence: {why['evidence']}"] if why["evidence"] else []),
            *([f"what to do: {why['advice']}"] if why["advice"] else []),
        ]
    elif not report["passed"]:
        remarks.append("--explain finds the first bad tensor and the likely cause")
    return remarks
