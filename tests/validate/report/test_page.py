"""Does the page say what the report says, first things first, and fetch nothing?"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tramontane.validate
from tramontane.validate.report.page import render_page

Report = dict[str, Any]

SCHEMA = Path(str(tramontane.validate.__file__)).parent / "report" / "schema.json"
POSITIONS, WINDOW = 96, 8


def logits(name: str, **figures: float | None) -> Report:
    usual = {
        "positions": POSITIONS,
        "max_logit_difference": 0.31,
        "mean_logit_difference": 0.02,
        "mean_kl": 4e-4,
        "p999_kl": 3e-3,
        "max_kl": 4e-3,
        "same_top": 0.99,
        "reference_perplexity": 20.7,
        "artifact_perplexity": 20.8,
        "worst_position": 17,
    }
    return {
        "name": name,
        "kind": "distance" if name.startswith("distance") else "logits",
        "figures": usual | figures,
        "bounds": {"mean_kl": 2.0, "same_top": 0.2} if "text" in name else {},
        "failures": [],
    }


def check(name: str, kind: str, **figures: float) -> Report:
    return {"name": name, "kind": kind, "figures": figures, "bounds": {}, "failures": []}


def finding(name: str, kind: str, layer: int | None, share: float) -> Report:
    return {
        "layer": layer,
        "name": name,
        "kind": kind,
        "error": share * 2e-5,
        "bound": 2e-5,
        "position": None if kind == "weights" else 5,
        "detail": "row 3, block 0" if kind == "weights" else "",
        "is_broken": share > 1,
    }


@pytest.fixture
def passing() -> Report:
    """A report in which all is well, made by hand."""
    return {
        "schema_version": 3,
        "passed": True,
        "artifact": {
            "name": "tiny-int8",
            "graph": "model.onnx",
            "exporter": "tramontane",
            "quant": "int8",
            "target": "ort",
            "window": WINDOW,
            "rows": 16,
            "layers": 2,
            "memory": {
                "weights_bytes": 1_000_000,
                "resident_weights_bytes": 1_100_000,
                "activation_bytes": 200_000,
                "runtime_bytes": 73_400_320,
                "cache_bytes_per_token": 512,
                "cache_bytes_at_most": 8192,
                "resident_bytes": 74_708_512,
                "other_quants": {"fp32": 90_000_000},
            },
        },
        "reference": {
            "name": "tiny",
            "architecture": "MistralForCausalLM",
            "parameters": 123_456,
            "files": {"config.json": "0" * 64},
        },
        "measured_on": {
            "text": "sample.txt",
            "text_sha256": "1" * 64,
            "seed": 0,
            "lengths": [1, 7, 8, 9, 24, POSITIONS],
            "thorough": False,
        },
        "tolerance": {
            "noise": 3.0,
            "weight_error": {"4": 0.067, "8": 4e-3, "32": 1e-6},
            "rounding_error": 1.0,
            "max_kl": 2.0,
            "min_agreement": 0.2,
            "float_error": 2e-5,
            "rounded_error": 1e-4,
            "attention_error": 2e-5,
            "cache_step_error": 1e-3,
            "cache_coarseness": 2.2,
            "cache_clipped": 5e-3,
            "scale": 1.0,
        },
        "headline": {
            "distance": "close",
            "max_logit_difference": 0.31,
            "mean_kl": 6.48e-4,
            "mean_kl_on_random_tokens": 9e-4,
            "same_top": 0.9824,
            "perplexity_ratio": 1.002,
            "same_greedy_tokens": 64,
            "greedy_tokens": 64,
        },
        "checks": [
            logits("distance from the float32 model, text, 96 tokens"),
            logits("distance from the float32 model, random, 96 tokens"),
            logits("text, chunked, 96 tokens"),
            check("cache, text, 96 tokens", "cache", cache_error=0.08, mean_cache_error=0.02),
            check(
                "greedy, 64 tokens",
                "greedy",
                same_greedy_tokens=64,
                greedy_tokens=64,
                greedy_gap=0.0,
            ),
            check("2 weights, one by one", "weights", weight_error=1e-3, broken=0, looked_at=2),
            check("1 rows, one by one", "rows", row_error=0.0, broken=0, looked_at=1),
        ],
        "findings": [
            finding("embedding", "weights", None, 0.5),
            finding("attention.query", "weights", 0, 0.9),
            finding("attention", "operators", 0, 0.01),
            finding("cached keys", "rows", 1, 0.0),
            finding("logits", "operators", None, 0.02),
        ],
        "matrices": [
            {
                "matrix": "layers.0.mlp.up.weight",
                "rank_by_harm": 1,
                "bits": 4,
                "block": 64,
                "method": "gptq",
                "scales": "float32",
                "error": 0.114,
                "output_error": 0.0613,
                "why_differs": "blocks of 64 instead of 128: rows of 576 weights",
                "why_float": None,
            },
            {
                **dict.fromkeys(("rank_by_harm", "block", "method", "scales", "error")),
                **dict.fromkeys(("output_error", "why_differs")),
                "matrix": "cos_cache",
                "bits": 32,
                "why_float": "rope table: computed",
            },
        ],
        "drift": [0.013, 0.022],
        "curve": {
            "kl": [1e-4 * (1 + at % 7) for at in range(POSITIONS)],
            "evictions": list(range(17, POSITIONS, 5)),
        },
        "worst_tokens": [
            {
                "position": 6,
                "kl": 7e-4,
                "before": "<s> a\tb<0x0A>  <script>alert(1)</script>",
                "next": " c",
                "reference": "<script>",
                "reference_probability": 0.25,
                "artifact": "\u202e",
                "artifact_probability": 0.2,
            }
        ],
        "explanation": None,
        "notes": ["looked into layers 0 and 1 of 2"],
        "tools": {"tramontane": "0.1.0", "onnxruntime": "1.32.0"},
        "machine": {"processor": "a processor", "system": "Linux x86_64", "threads": 2},
        "repeat": "tramontane validate ARTIFACT --reference CHECKPOINT",
    }


@pytest.fixture
def failing(passing: Report) -> Report:
    """The same, with an attention that is far beyond its bound."""
    passing["passed"] = False
    passing["findings"][2] = finding("attention", "operators", 0, 15_000)
    broken = check("2 operators, one by one", "operators", operator_error=0.3)
    broken["figures"] |= {"broken": 1, "looked_at": 2}
    broken["bounds"] = {"operator_error": 2e-5}
    broken["failures"] = ["error of an operator 0.3 > 2e-05 (layer 0, attention at position 5)"]
    passing["checks"].append(broken)
    passing["explanation"] = {
        "place": "layer 0, attention at position 5",
        "error": 0.3,
        "bound": 2e-5,
        "cause": "the window is dropped, expected 8",
        "evidence": "with this change the reference differs by 2.4e-07",
        "advice": "",
    }
    return passing


def words(page: str) -> str:
    """What a reader reads, without style and markup."""
    body = page[page.index("<body") :]
    return re.sub(r"[ \n]+", " ", re.sub(r"<[^>]*>", " ", body))


def without_numbers(value: Any) -> Any:
    """The same report with null for each figure that can lack one."""
    nullable = {"error", "kl", "reference_probability", "artifact_probability"}
    kept = {"positions", "worst_position", "broken", "looked_at"}
    kept |= {"same_greedy_tokens", "greedy_tokens", "distance"}
    if isinstance(value, list):
        return [without_numbers(one) for one in value]
    if not isinstance(value, dict):
        return value
    changed = {}
    for name, one in value.items():
        if name in ("figures", "headline"):
            changed[name] = {key: one[key] if key in kept else None for key in one}
        elif name == "curve":
            changed[name] = {"kl": [None] * len(one["kl"]), "evictions": []}
        elif name == "drift":
            changed[name] = [None] * len(one)
        else:
            changed[name] = None if name in nullable else without_numbers(one)
    return changed


def check_schema(report: Report) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(report)


@pytest.mark.slow
def test_the_verdict_comes_first(passing: Report, failing: Report) -> None:
    assert words(render_page(failing)).startswith(" ✗ Failed tiny-int8")
    passing |= {"passed": True, "checks": failing["checks"][:-1], "explanation": None}
    read = words(render_page(passing))  # five of the seven have no bound
    assert read.startswith(
        " ✓ Passed tiny-int8 All 2 checks passed: tiny-int8 computes what int8 makes of tiny."
    )
    assert "Failed checks" not in read


def test_headline_figures_are_there_with_their_bounds(passing: Report) -> None:
    read = words(render_page(passing))
    assert "Mean KL 6.48e-4 nats, from the float32 model, on the text bound ≤ 2" in read
    assert "Top-1 agreement 98.24\u202f%" in read
    assert "bound ≥ 20\u202f%" in read
    assert "Greedy tokens 64 of 64" in read


def test_bounds_that_were_scaled_are_told_in_bold(passing: Report) -> None:
    told = "<strong>The recipe's bounds were scaled by 2.5: they are wider"
    assert told not in render_page(passing)
    passing["tolerance"]["scale"] = 2.5
    page = render_page(passing)
    assert told in page
    assert page.index(told) < page.index("Mean KL")


def test_a_failure_says_why_and_which_checks_before_any_figure(failing: Report) -> None:
    read = words(render_page(failing))
    top = read[: read.index("Headline figures")]
    assert "Where layer 0, attention at position 5" in top
    assert "Likely cause the window is dropped, expected 8" in top
    assert "Evidence with this change the reference differs by 2.4e-07" in top
    assert "2 operators, one by one error of an operator 0.3 &gt; 2e-05" in top
    assert "--explain" not in top


def test_a_failure_without_explanation_says_how_to_get_one(failing: Report) -> None:
    failing["explanation"] = None
    assert "--reference CHECKPOINT --explain" in words(render_page(failing))


def test_a_finding_beyond_its_bound_is_named_in_the_plot_and_in_words(failing: Report) -> None:
    page = render_page(failing)
    assert (
        "Beyond their bounds: 1, furthest layer 0, attention: 15\u202f000 times its bound" in page
    )
    assert ">attention</text>" in page
    assert "✗ layer 0, attention" in words(page)


def test_what_a_token_says_stays_text(passing: Report) -> None:
    passing["artifact"]["name"] = passing["notes"][0] = "</title><script>"
    passing["findings"][2]["name"] = '"><script>'
    passing["findings"][2] |= {"error": 1.0, "is_broken": True}
    page = render_page(passing)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_whitespace_and_what_has_no_shape_are_made_visible(passing: Report) -> None:
    page = render_page(passing)
    read = words(page).replace(" ", "")
    assert "a⇥b↵··&lt;script" in read
    assert "U+202E" in read
    assert "\u202e" not in page


def test_nothing_is_fetched_and_nothing_runs(passing: Report) -> None:
    page = render_page(passing)
    assert "://" not in page
    assert "@import" not in page
    assert not re.search(r"<(script|link|img|iframe|object|embed)\b", page)
    targets = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)""", page)
    assert all((first or second).startswith("#") for first, second in targets)


@pytest.mark.slow
def test_the_same_report_gives_the_same_bytes(passing: Report) -> None:
    assert render_page(passing) == render_page(json.loads(json.dumps(passing)))


def test_ids_are_unique_and_all_that_is_referred_to_is_there(failing: Report) -> None:
    page = render_page(failing)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    named = re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', page)
    assert set(named) <= set(ids)


def test_every_plot_says_in_words_what_it_shows(passing: Report) -> None:
    page = render_page(passing)
    assert page.count("<svg ") == page.count('<svg role="img" aria-label="') == 8
    assert "median 4e-4, largest 7e-4 at position 6" in page


def test_headings_do_not_skip_a_level(failing: Report) -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", render_page(failing))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


@pytest.mark.slow
def test_the_windows_edge_is_labelled_where_the_text_reaches_it(passing: Report) -> None:
    label = ">window's edge: 8</text>"
    assert label in render_page(passing)
    passing["artifact"]["window"] = POSITIONS
    page = render_page(passing)
    assert "window's edge" not in page
    assert "its edge was not crossed" in page
    passing["artifact"]["window"] = None
    assert "The model has no window" in render_page(passing)


@pytest.mark.slow
def test_plots_take_their_colours_from_the_page(passing: Report) -> None:
    svgs = re.findall(r"<svg.*?</svg>", render_page(passing), flags=re.DOTALL)
    assert "var(--accent)" in svgs[0]
    assert not any(re.search(r"#[0-9a-f]{6}(?![0-9a-f])", svg) for svg in svgs)


def test_every_check_is_in_the_tables(failing: Report) -> None:
    page = render_page(failing)
    tables = page[page.index('id="checks"') : page.index('id="made"')]
    assert all(check["name"] in tables for check in failing["checks"])


@pytest.mark.parametrize("positions", [1, 2, 5000])
def test_any_number_of_positions_is_drawn(passing: Report, positions: int) -> None:
    passing["curve"] = {"kl": [0.0, *[1e-9] * (positions - 1)], "evictions": []}
    page = render_page(passing)
    assert f"KL divergence at each of {positions} positions" in page
    assert len(page.encode()) < 600_000


def test_figures_that_are_no_numbers_are_said_to_be_none(failing: Report) -> None:
    report = without_numbers(failing)
    check_schema(report)
    page = render_page(report)
    assert "Mean KL not a number" in words(page)
    assert ">NaN</text>" in page


def test_another_exporters_graph_that_cannot_be_looked_into_has_a_page(passing: Report) -> None:
    unknown = {"exporter": "another", "target": None, "window": None, "rows": None, "memory": None}
    passing["artifact"] |= unknown
    passing |= {"findings": [], "drift": [], "matrices": []}
    passing["checks"] = passing["checks"][:3]
    check_schema(passing)
    read = words(render_page(passing))
    assert "Target not recorded" in read
    assert "was not checked: no single weight or operator was compared" in read
    assert "None is recorded: another exporter wrote this graph" in read


def test_the_schema_accepts_reports_and_refuses_what_is_missing_or_unknown(
    failing: Report,
) -> None:
    check_schema(failing)
    for spoil in (
        lambda report: report.pop("headline"),
        lambda report: report["checks"][0]["figures"].pop("mean_kl"),
        lambda report: report["worst_tokens"][0].update(tokn=1),
        lambda report: report["findings"][0].update(kind="weight"),
        lambda report: report["tolerance"].update(max_kl=None),
    ):
        report = json.loads(json.dumps(failing))
        spoil(report)
        with pytest.raises(jsonschema.ValidationError):
            check_schema(report)


def test_the_page_is_imported_without_what_draws_and_what_computes() -> None:
    code = (
        "import sys, tramontane.validate.report.page\n"
        "print({'matplotlib', 'torch', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_matrix_is_listed_with_its_errors_or_the_reason_for_float(passing: Report) -> None:
    check_schema(passing)
    page = re.sub(r"<[^>]*>", " ", render_page(passing))
    read = " ".join(page.split())
    row = (
        r"1 layers\.0\.mlp\.up\.weight 4 64 gptq float32 11\.40?\s?% 6\.13\s?% "
        "blocks of 64 instead of 128: rows of 576 weights"
    )
    assert re.search(row, read), read[-4000:]
    assert "cos_cache 32 float: rope table: computed" in read
