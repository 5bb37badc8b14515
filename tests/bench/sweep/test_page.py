"""Does the page of a sweep say of each case what was measured, or why it was not?"""

from __future__ import annotations

import json
from pathlib import Path

from tramontane.bench.sweep.page import print_tables, render, write_page

from .report import report


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line[1:-1].split(" | ")]


def test_a_row_has_the_figures_of_its_artifact_and_leads_to_its_report() -> None:
    assert cells(render(report()), "| [int8](m-int8-web") == [
        *("[int8](m-int8-web/parity/report.html)", "web", "8.30", "1.04 MB", "5.00e-4"),
        *("90.00%", "1.0500", "3 of 256", "yes"),
    ]


def test_the_front_has_what_none_beats_in_bits_and_kl() -> None:
    text = render(report())
    assert cells(text, "| [int8](m-int8-ort")[-1] == ""
    assert cells(text, "| [int4](m-int4-ort")[-1] == "yes"
    assert cells(text, "| [fp32](m-fp32-ort")[-1] == ""


def test_a_case_without_an_artifact_says_why_in_one_line() -> None:
    text = render(report())
    assert cells(text, "| int4 | web")[-1] == "not supported: no kernel \\| for 4 bits"
    assert cells(text, "| two | ort")[-1] == "failed: a: 1 of 9 text: mean KL 3 > 2"


def test_page_names_what_was_measured_on_and_has_no_plot_of_nothing(tmp_path: Path) -> None:
    page = write_page(report(), tmp_path)
    text = page.read_text("utf-8")
    assert "Measured on 1024 positions of a.txt, a chip, tramontane 0, onnxruntime 1.2." in text
    assert text.count("![") == 1
    assert "(sweep-m.svg)" in text
    assert json.loads((tmp_path / "sweep.json").read_text("utf-8")) == report()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sweep-m.svg",
        "sweep.json",
        "sweep.md",
    ]
    drawn = (tmp_path / "sweep-m.svg").read_text("utf-8")
    assert all(f">{name}<" in drawn for name in ("int8", "int4", "ort", "web", "Pareto front"))
    assert ">fp32<" not in drawn
    print_tables(report())
