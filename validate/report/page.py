"""Renders a report as one HTML page that fetches nothing."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ...runtime.sizes import format_bytes
from ..layer_checks.findings import LayerFinding
from ..tokenizer import check_tokenizer
from ..verdict import (
    COMPARED,
    FIGURE_LABELS,
    WORDS,
    Check,
    checks_of,
    judged_checks,
    number_of,
)
from . import plots
from .frontier import plot_frontier
from .scales import write_number

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_FAILED = 6  # checks that are shown at the top
_BROKEN, _NEAREST = 12, 3  # findings shown above the full table
_SHAPES = {" ": "·", "\n": "↵", "\t": "⇥"}
_BYTES = {"<0x0A>": "\n", "<0x09>": "\t"}  # spelling of bytes in vocabularies
_CARDS = {
    "mean_kl": ("Mean KL", "nats, from the float32 model, on the text"),
    "same_top": ("Top-1 agreement", "of positions: same most likely token"),
    "perplexity_ratio": ("Perplexity ratio", "artifact over float32 model"),
    "max_logit_difference": ("Max |Δlogit|", "over all positions and tokens"),
    "same_greedy_tokens": ("Greedy tokens", "that agree before the first difference"),
}
_TOTAL = "estimated RAM to run"
_ALONE = ("weights", "rounding", "operators", "rows")
_ERRORS = ("weight_error", "rounding_error", "operator_error", "row_error")
# Of each kind of check: a caption, and the heading and figures of each column.
_TABLES: tuple[tuple[str, tuple[str, ...], dict[str, tuple[str, ...]]], ...] = (
    (
        "Distance from the float32 model",
        ("distance",),
        {
            "mean KL": ("mean_kl",),
            "99.9th percentile": ("p999_kl",),
            "max KL": ("max_kl",),
            "top-1 agreement": ("same_top",),
            "max |Δlogit|": ("max_logit_difference",),
            "perplexity": ("artifact_perplexity",),
            "of float32": ("reference_perplexity",),
            "worst position": ("worst_position",),
        },
    ),
    (
        "Logits of whole sequences, compared with the recipe's reference",
        ("logits", "batch"),
        {
            "mean KL": ("mean_kl",),
            "99.9th percentile": ("p999_kl",),
            "max KL": ("max_kl",),
            "top-1 agreement": ("same_top",),
            "max |Δlogit|": ("max_logit_difference",),
            "mean |Δlogit|": ("mean_logit_difference",),
            "perplexity": ("artifact_perplexity",),
            "of reference": ("reference_perplexity",),
            "worst position": ("worst_position",),
        },
    ),
    (
        "Drift of cached rows",
        ("cache",),
        {"mean of the worst layer": ("mean_cache_error",), "worst row": ("cache_error",)},
    ),
    (
        "Greedy continuation",
        ("greedy",),
        {
            "same as the float32 model": ("same_greedy_tokens",),
            "tokens": ("greedy_tokens",),
            "largest logit minus the chosen token's": ("greedy_gap",),
        },
    ),
    (
        "Weights, operators and cached rows, one by one",
        _ALONE,
        {"worst error": _ERRORS, "out of bounds": ("broken",), "checked": ("looked_at",)},
    ),
    (
        "Tokenizer and chat templates, compared with the checkpoint's",
        (check_tokenizer.KIND,),
        {
            FIGURE_LABELS[check_tokenizer.FIGURE]: (check_tokenizer.FIGURE,),
            "compared": ("compared",),
        },
    ),
)


def render_page(report: dict[str, Any]) -> str:
    """Render a report as one HTML page that fetches nothing; the same report, the same bytes.

    Args:
        report: as ``report.schema.json`` describes it, and nothing besides.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True
    )
    environment.filters |= {
        "number": write_number,
        "percent": _percent,
        "size": format_bytes,
        "visible": _visible,
    }
    checks = checks_of(report)
    findings = [_as_finding(one) for one in report["findings"]]
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        **report,
        report=report,
        sentence=_sentence(report),
        failed=_failed(checks),
        failed_shown=_FAILED,
        cards=list(_cards(report["headline"], checks)),
        plots=_plots(report, findings),
        telling=_telling(findings),
        ranked=_ranked(findings),
        tables=list(_tables(checks)),
        memory=_memory(report["artifact"]["memory"]),
        total=_TOTAL,
        sources=_sources(report),
        compared=f"{WORDS}; {COMPARED}",
    )


def _failed(checks: list[Check]) -> list[Check]:
    """Failed checks; those of single weights and operators first, where errors are made."""
    failed = [check for check in checks if check.failures]
    return sorted(failed, key=lambda check: check.kind not in _ALONE)


def _as_finding(content: dict[str, Any]) -> LayerFinding:
    known = {name: value for name, value in content.items() if name != "is_broken"}
    return LayerFinding(**{**known, "error": number_of(content["error"])})


def _ranked(findings: list[LayerFinding]) -> list[LayerFinding]:
    """Findings by error over bound, largest first."""

    def distance(finding: LayerFinding) -> float:
        share = finding.error / finding.bound
        return -math.inf if math.isnan(share) else -share

    return sorted(findings, key=distance)


def _telling(findings: list[LayerFinding]) -> list[LayerFinding]:
    """Findings out of bounds; if none is, the nearest to its bound of each kind."""
    ranked = _ranked(findings)
    broken = [one for one in ranked if one.is_broken][:_BROKEN]
    kinds = dict.fromkeys(one.kind for one in ranked)
    nearest = [[one for one in ranked if one.kind == kind][:_NEAREST] for kind in kinds]
    return broken or [one for some in nearest for one in some]


def _sentence(report: dict[str, Any]) -> str:
    """The verdict in plain words."""
    artifact, reference = report["artifact"]["name"], report["reference"]["name"]
    checks, quant = judged_checks(checks_of(report)), report["artifact"]["quant"]
    failed = [check.kind for check in checks if check.failures]
    if set(failed) == {"distance"}:
        return (
            f"{artifact} computes what {quant} specifies, but its outputs are further from "
            f"{reference}'s than is allowed."
        )
    if set(failed) == {check_tokenizer.KIND}:
        return (
            f"{artifact} computes what {quant} makes of {reference}, but its tokenizer or "
            f"its chat templates are not {reference}'s."
        )
    if failed:
        return (
            f"{len(failed)} of {len(checks)} checks failed: {artifact} does not compute what "
            f"{quant} makes of {reference}."
        )
    head, positions = report["headline"], len(report["curve"]["kl"])
    return (
        f"All {len(checks)} checks passed: {artifact} computes what {quant} makes of {reference}. "
        f"Its distance from the float32 model is rated {head['distance']}: over "
        f"{write_number(positions)} positions of text, {_percent(head['same_top'])} have the same "
        "most likely token."
    )


def _cards(headline: dict[str, Any], checks: list[Check]) -> Iterator[dict[str, Any]]:
    """Name, value, meaning, bound and verdict of each headline figure."""
    for figure, (name, meaning) in _CARDS.items():
        bounds = [check.bounds[figure] for check in checks if _bounds_headline(check, figure)]
        value = headline[figure]
        bound = (max if figure.startswith("same") else min)(bounds, default=None)
        text = _written(figure, value)
        if figure == "same_greedy_tokens":
            text += f" of {write_number(headline['greedy_tokens'])}"
        yield {
            "name": name,
            "text": text,
            "meaning": meaning,
            "bound": None if bound is None else _bound(figure, bound),
            "is_broken": bound is not None and _is_broken(figure, value, bound),
        }


def _bounds_headline(check: Check, figure: str) -> bool:
    return check.kind == "distance" and figure in check.bounds


def _is_broken(figure: str, value: float | None, bound: float) -> bool:
    figures, bounds = {figure: number_of(value)}, {figure: bound}
    return bool(Check(name="", kind="", figures=figures, bounds=bounds).broken_figures)


def _plots(report: dict[str, Any], findings: list[LayerFinding]) -> dict[str, dict[str, Markup]]:
    """Plots by name and width; without findings, their plots are left out."""
    kl, drift = report["curve"]["kl"], report["drift"]
    window, bound = report["artifact"]["window"], report["tolerance"]["max_kl"]
    drawn = {
        "positions": plots.plot_positions(
            kl, evictions=report["curve"]["evictions"], window=window
        ),
        "spread": plots.plot_spread(kl, bound=bound),
        **({"drift": plots.plot_drift(drift)} if drift else {}),
        **({"findings": plots.plot_findings(findings)} if findings else {}),
        **({"frontier": plot_frontier(report["budget"])} if "budget" in report else {}),
    }
    return {
        name: {"wide": Markup(plot.wide), "narrow": Markup(plot.narrow)}
        for name, plot in drawn.items()
    }


def _tables(checks: list[Check]) -> Iterator[dict[str, Any]]:
    """Checks of like figures side by side; each cell its figure, its bound and its verdict."""
    for caption, kinds, columns in _TABLES:
        shown = [check for check in checks if check.kind in kinds]
        rows = [
            {
                "name": check.name,
                "is_broken": bool(check.failures),
                "cells": [_cell(check, figures) for figures in columns.values()],
            }
            for check in shown
        ]
        if rows:
            judged = len(judged_checks(shown))
            yield {"caption": caption, "headings": list(columns), "rows": rows, "judged": judged}


def _cell(check: Check, figures: tuple[str, ...]) -> dict[str, Any]:
    figure = next(name for name in figures if name in check.figures)
    value, is_bounded = check.figures[figure], figure in check.bounds
    # A single position has no known next token, so it has no perplexity; that is no fault.
    is_absent = "perplexity" in figure and math.isnan(value)
    return {
        "text": "" if is_absent else _written(figure, value, keeps_zeros=True),
        "bound": _bound(figure, check.bounds[figure]) if is_bounded else None,
        "is_broken": figure in check.broken_figures,
    }


def _memory(plan: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Memory of each part of a session, their sum, and related sizes."""
    if plan is None:
        return []
    others = plan["other_quants"].items()
    sizes = [
        ("weights, as the kernels store them", plan["resident_weights_bytes"]),
        ("activations of one prefill chunk", plan["activation_bytes"]),
        ("Python, numpy and onnxruntime", plan["runtime_bytes"]),
        ("KV cache, at most", plan["cache_bytes_at_most"]),
        (_TOTAL, plan["resident_bytes"]),
        *((f"estimated RAM to run in {quant}", size_bytes) for quant, size_bytes in others),
        ("KV cache, per token", plan["cache_bytes_per_token"]),
        ("weight files", plan["weights_bytes"]),
    ]
    return [(name, format_bytes(size_bytes)) for name, size_bytes in sizes]


def _sources(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and hash of each file that was read."""
    measured_on = report["measured_on"]
    return [
        *sorted(report["reference"]["files"].items()),
        (measured_on["text"], measured_on["text_sha256"]),
    ]


def _written(figure: str, value: float | None, *, keeps_zeros: bool = False) -> str:
    if figure == "same_top":
        return _percent(value)
    digits = 4 if "perplexity" in figure else 3
    return write_number(value, digits=digits, keeps_zeros=keeps_zeros)


def _bound(figure: str, value: float) -> str:
    return f"{'≥' if figure.startswith('same') else '≤'} {_written(figure, value)}"


def _percent(share: float | None, *, digits: int = 2) -> str:
    """Write a share; a share below 1 is never rounded up to 100 %.

    >>> [_percent(share).replace("\u202f", " ") for share in (0.9824, 0.98, 0.99999, 1.0)]
    ['98.24 %', '98 %', '99.99 %', '100 %']
    """
    if share is None or math.isnan(share):
        return write_number(None)
    most = 100 if share >= 1 else 100 - 0.1**digits
    text = f"{min(100 * share, most):.{digits}f}".removesuffix(f".{digits * '0'}")
    return f"{text}\u202f%"


def _visible(text: str) -> Markup:
    """Escape a token's text, with a mark for each character that could not be seen.

    >>> str(_visible(" <s>"))
    '<span class="unseen">·</span>&lt;s&gt;'
    """
    for piece, character in _BYTES.items():
        text = text.replace(piece, character)
    shown = ((_shape(character) or character, _shape(character) is None) for character in text)
    parts = []
    for is_seen, pairs in itertools.groupby(shown, key=lambda pair: pair[1]):
        run = "".join(shape for shape, _ in pairs)
        parts.append(Markup("{}" if is_seen else '<span class="unseen">{}</span>').format(run))
    return Markup("").join(parts)


def _shape(character: str) -> str | None:
    """Mark for a space or control character; None for a visible one."""
    if unicodedata.category(character)[0] not in "CZ":
        return None
    return _SHAPES.get(character, f"U+{ord(character):04X}")
