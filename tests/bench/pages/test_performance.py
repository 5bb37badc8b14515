"""Tests of docs/performance.md and docs/other-exporters.md, and of what writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tramontane.bench import other_exporters
from tramontane.bench.pages import performance as performance_page

from ..a_machine import MACHINE

DOCS = Path(__file__).parents[3] / "docs"


def spread(median: float) -> dict[str, Any]:
    return {"median": median, "low": median / 2, "high": median * 2, "runs": 3}


def speed(**changes: Any) -> dict[str, Any]:
    figures = {
        "load": 1.5,
        "peak of load": 1.2e9,
        "first token": 0.25,
        "prefill 256": 100.0,
        "decode at 16": 30.0,
        "resident at 16": 1.6e9,
        "driver": 50e-6,
        "driver's share": 0.002,
    }
    return {
        "artifact": "m-int4-ort",
        "file_bytes": 10**9,
        "step_bytes": 9 * 10**8,
        "figures": {what: spread(value) for what, value in figures.items()},
        "limits": {"read": spread(30e9), "multiply": spread(400e9)},
        "shares": {"prefill 256": spread(0.4), "decode at 16": spread(0.9)},
        "rounds": 3,
        "machine": MACHINE,
        **changes,
    }


def peers() -> dict[str, Any]:
    both = {
        "ours": "tramontane int4",
        "theirs": "llama.cpp Q4_0",
        "why": "",
        "by_way": {"fast": spread(1.3), "slow": spread(2)},
    }
    return {
        "model": "m",
        "machine": MACHINE,
        "protocol": {"rounds": 3, "prefill": [256], "decode": [16, 4096]},
        "notes": {"llama.cpp": "knows no window"},
        "runtimes": {
            "ours": {
                "file_bytes": 10**9,
                "figures": {"prefill 256": spread(90), "decode at 4096": spread(20)},
                "failed": {},
            },
            "genai": {
                "file_bytes": 2 * 10**9,
                "figures": {"prefill 256": spread(60), "load": spread(1)},
                "failed": {"decode at 4096": "too few rows"},
            },
        },
        "absent": {"other": "cannot be installed"},
        "comparisons": [
            {**both, "what": "prefill 256", "ratio": spread(1.3), "floor": 1.25, "met": True},
            {**both, "what": "decode at 16", "ratio": spread(1.1), "floor": 1.15, "met": False},
            {
                **both,
                "what": "decode at 4",
                "ratio": None,
                "floor": None,
                "met": None,
                "why": "no",
            },
        ],
    }


def flat() -> dict[str, Any]:
    points = [
        {"position": 1000 * n, "step_us": 100.0 + n, "resident_bytes": 1} for n in range(1, 4)
    ]
    return {
        "window": 64,
        "since": 2000,
        "growth": 0.001,
        "slower": 0.0098,
        "early_us": 102.0,
        "late_us": 103.0,
        "points": points,
        "machine": MACHINE,
    }


def kernels() -> dict[str, Any]:
    return {
        "machine": MACHINE,
        "rounds": 9,
        "limits": {"read": spread(30e9), "multiply": spread(400e9)},
        "kernels": [
            {
                "does": "attention",
                "way": "at once",
                "seconds": spread(2e-3),
                "of_reading": spread(0.41),
                "of_multiplying": spread(0.03),
            }
        ],
    }


def written(tmp_path: Path, **lines: Any) -> str:
    measured = tmp_path / "measured"
    measured.mkdir(exist_ok=True)
    for name, line in lines.items():
        (measured / f"{name.replace('_', '-')}.json").write_text(json.dumps(line))
    out = tmp_path / "performance.md"
    assert performance_page.main([str(measured), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_every_figure_on_the_page_is_one_that_was_measured(tmp_path: Path) -> None:
    text = written(tmp_path, speed_m=speed(), peers_m=peers(), flat=flat(), kernels=kernels())
    assert "| m-int4-ort | 1.00 GB | 1.5 | 0.25 | 100.0 (40%) | 30.0 (90%) | 50 us, 0.2% |" in text
    assert (
        "| m-int4-ort | 30.0 (15.0 to 60.0) | 400.0 (200.0 to 800.0) | 900.00 MB | 1.20 |" in text
    )
    assert "| 1.30 | 0.65 to 2.60 | >= 1.25 | met | fast 1.30, slow 2.00 |" in text
    assert "| 1.10 | 0.55 to 2.20 | >= 1.15 | **not met** |" in text
    assert "decodes 3000 tokens" in text
    assert "| attention | at once | 2.00 | 1.00 | 4.00 | 41% | 3% |" in text
    assert "changed by +0.10%" in text
    assert (
        "took +1.0% more time than 1000 steps after two\nwindows in a second session (102 us and 103 us;"
        in text
    )


def test_what_failed_or_was_absent_is_named(tmp_path: Path) -> None:
    text = written(tmp_path, peers_m=peers())
    assert "Failed: genai, decode at 4096: too few rows." in text
    assert '`make bench-peers MODEL=m PREFILL="256" DECODE="16 4096"`, 3 rounds' in text
    assert "| ours | 1.00 GB | 90.0 | 20.0 |" in text
    assert "| genai | 2.00 GB | 60.0 | failed |" in text
    assert "Absent: other: cannot be installed." in text
    assert text.count("Not measured.") == 3


def test_pictures_are_shown_and_copied_into_a_folder_beside_the_page(tmp_path: Path) -> None:
    (tmp_path / "measured").mkdir()
    for name in ("speed-m-int4-ort.svg", "flat.svg"):
        (tmp_path / "measured" / name).write_text("<svg/>")
    text = written(tmp_path, speed_m=speed(), flat=flat())
    for name in ("speed-m-int4-ort.svg", "flat.svg"):
        assert f"(figures/{name})" in text
        assert (tmp_path / "figures" / name).read_text() == "<svg/>"


def test_two_machines_are_told_as_two(tmp_path: Path) -> None:
    other = {**MACHINE, "processor": "another chip"}
    text = written(tmp_path, speed_a=speed(), speed_b=speed(machine=other))
    assert "Measured on: a chip" in text
    assert "; and on another chip" in text


def test_a_folder_without_measurements_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(performance_page.ContractError, match=r"no speed-\*\.json"):
        performance_page.main([str(tmp_path), "--out", str(tmp_path / "page.md")])
    (tmp_path / "flat.json").write_text("{")
    with pytest.raises(performance_page.ContractError, match=r"flat\.json: not JSON .*; measure"):
        performance_page.main([str(tmp_path), "--out", str(tmp_path / "page.md")])


FIGURES = {name: spread(1) for name in speed()["figures"]}


@pytest.mark.parametrize(
    ("name", "report", "said"),
    [
        ("speed-m", speed(artifact=1), "artifact is 1, expected a text"),
        ("speed-m", speed(file_bytes=0), "file_bytes is 0, expected 1 or more"),
        ("speed-m", speed(figures={}), "figures has no 'load'"),
        (
            "speed-m",
            speed(figures={**FIGURES, "load": {"median": "x"}}),
            "figures.load.median is 'x', expected a finite number",
        ),
        ("speed-m", speed(shares={"decode at 7": spread(1)}), "figures has no 'decode at 7'"),
        (
            "speed-m",
            speed(figures={name: FIGURES[name] for name in FIGURES if "resident" not in name}),
            "figures has no resident memory",
        ),
        ("speed-m", speed(limits={"read": spread(1)}), "limits.multiply is missing"),
        ("peers-m", {**peers(), "absent": []}, r"absent is \[\], expected an object"),
        ("peers-m", {**peers(), "runtimes": {"a": {}}}, "runtimes.a.failed is missing"),
        ("flat", {**flat(), "points": []}, "points is empty, expected one or more"),
        ("flat", {**flat(), "growth": None}, "growth is None, expected a finite number"),
        ("kernels", {**kernels(), "kernels": [1]}, r"kernels\[0\] is 1, expected an object"),
    ],
)
def test_a_field_of_another_type_is_named(
    tmp_path: Path, name: str, report: dict[str, Any], said: str
) -> None:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(report))
    with pytest.raises(performance_page.ContractError, match=f"^{path}: {said}.*; measure it ag"):
        performance_page.main([str(tmp_path), "--out", str(tmp_path / "page.md")])


def test_the_page_in_docs_has_the_words_of_the_template() -> None:
    shown = (DOCS / "performance.md").read_text("utf-8").splitlines()
    template = performance_page._TEMPLATE.read_text("utf-8").splitlines()
    words = [line for line in template if line and "{" not in line and line != "Not measured."]
    assert len(words) > 40
    assert not set(words) - set(shown)


def test_the_page_of_other_exporters_has_the_words_that_are_printed_now() -> None:
    shown = (DOCS / "other-exporters.md").read_text("utf-8").splitlines()
    printed = other_exporters.as_markdown(
        [], versions=[], absent=[], model="stdlib-5m"
    ).splitlines()
    words = [line for line in printed if "Versions:" not in line]
    assert not set(words) - set(shown)
