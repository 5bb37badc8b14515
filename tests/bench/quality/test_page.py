"""Is docs/quality.md what was measured, with the Pareto front of both families?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tramontane.bench.quality import page
from tramontane.bench.quality.plot import plot
from tramontane.bench.quality.rows import OURS, as_json, pareto_front
from tramontane.runtime.errors import ContractError

from ..a_machine import MACHINE
from .report import report, row

DOCS = Path(__file__).parents[3] / "docs"


def front(*rows: tuple[str, int, float]) -> list[str]:
    found = as_json([row(n, bytes_=b, kl=kl) for n, b, kl in rows], num_parameters=1000)
    return [name.removeprefix(f"{OURS} ") for name in pareto_front(found)]


def test_the_front_leaves_out_what_another_beats_in_one_figure_and_equals_in_the_other() -> None:
    assert front(("a", 100, 0.2), ("b", 100, 0.1), ("c", 200, 0.1)) == ["b"]


def test_two_formats_that_are_equal_are_both_on_the_front() -> None:
    assert front(("a", 100, 0.1), ("b", 100, 0.1)) == ["a", "b"]


def test_the_front_is_in_the_order_of_bits() -> None:
    assert front(("a", 300, 0.1), ("b", 100, 0.3), ("c", 200, 0.2)) == ["b", "c", "a"]


def test_a_format_that_is_not_quantized_or_not_a_number_is_not_on_the_front() -> None:
    rows = [row("x", bytes_=1, kl=0, is_quantized=False), row("y", bytes_=2, kl=float("nan"))]
    assert pareto_front(as_json(rows, num_parameters=1000)) == []


def test_bits_count_all_that_ships() -> None:
    found = {one["name"]: one for one in report()["rows"]}
    assert found["tramontane int8"]["bits_per_weight"] == 8.8
    assert found["tramontane int8"]["perplexity_ratio"] == 1.05


def cells(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_has_the_figures_of_its_format() -> None:
    text = page.render([report()], plots={})
    assert cells(text, "tramontane int8") == [
        *(
            "tramontane int8",
            "8.80",
            "1.00e-4",
            "5.00e-5",
            "0.0100",
            "0.100",
            "90.00%",
            "1.0500",
            "yes",
        ),
        "int4 x 5",
    ]
    assert cells(text, "llama.cpp Q4_K_M")[-2:] == ["", "int4 x 5 (3 fell back)"]


def test_a_format_that_was_not_measured_says_why() -> None:
    text = page.render([report()], plots={})
    assert cells(text, "llama.cpp Q4_0") == ["llama.cpp Q4_0", *[""] * 8, "not installed: no cc"]


def test_notes_name_formats_that_fell_back() -> None:
    text = page.render([report()], plots={})
    assert "more bits: llama.cpp Q4_K_M 3 matrices." in text


def test_the_page_says_what_the_window_does_where_there_is_one() -> None:
    assert "a window of 64 tokens" in page.render([report()], plots={})
    assert "a window of" not in page.render([report(window=None)], plots={})


def test_the_command_writes_the_page_and_copies_the_plots(tmp_path: Path) -> None:
    measured, out = tmp_path / "measured", tmp_path / "docs" / "quality.md"
    measured.mkdir()
    out.parent.mkdir()
    (measured / "quality-m.json").write_text(json.dumps(report()))
    plot(report(), measured / "quality-m.svg")
    assert page.main([str(measured), "--out", str(out)]) == 0
    assert "(figures/quality-m.svg)" in out.read_text("utf-8")
    shown = out.parent / "figures" / "quality-m.svg"
    assert shown.read_bytes() == (measured / "quality-m.svg").read_bytes()


@pytest.mark.parametrize(
    ("text", "why"), [(None, r"no quality-\*\.json"), ("{", "not JSON .*; measure it again")]
)
def test_a_folder_without_a_measurement_is_refused(
    tmp_path: Path, text: str | None, why: str
) -> None:
    if text is not None:
        (tmp_path / "quality-m.json").write_text(text)
    with pytest.raises(ContractError, match=why):
        page.main([str(tmp_path), "--out", str(tmp_path / "page.md")])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"window": "none"}, "window is 'none', expected a whole number"),
        ({"text": {}}, "text.length is missing, expected a value"),
        ({"rows": [{"name": "a"}]}, r"rows\[0\].why is missing, expected a value"),
        (
            {"rows": [{"name": "a", "why": ""}]},
            r"rows\[0\].bits_per_weight is missing, expected a value",
        ),
        (
            {"machine": {**MACHINE, "versions": {"numpy": 1}}},
            "machine.versions.numpy is 1, expected a text",
        ),
    ],
)
def test_a_field_of_another_type_is_named(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "quality-m.json"
    path.write_text(json.dumps(report(**change)))
    with pytest.raises(ContractError, match=f"^{path}: {said}.*; measure it again$"):
        page.main([str(tmp_path), "--out", str(tmp_path / "page.md")])


def test_the_plot_is_the_same_each_time_and_names_every_measured_format(tmp_path: Path) -> None:
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        plot(report(), path)
    first, second = (path.read_text("utf-8") for path in paths)
    assert first == second
    assert all(f">{name}<" in first for name in ("int8", "int4", "Q8_0", "Q4_K_M"))
    assert ">fp32<" not in first


def test_the_shown_page_is_what_the_template_prints() -> None:
    shown = (DOCS / "quality.md").read_text("utf-8")
    head = page.render([], plots={}).partition("\n## ")[0].strip()
    assert shown.startswith(head)
