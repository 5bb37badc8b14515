"""Are medians and ratios those of the rounds, are they shown, and is what lacks refused by name?"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tramontane.bench.web import __main__ as web_speed
from tramontane.bench.web import figures
from tramontane.environments import commands, node
from tramontane.environments.errors import Absent
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import Geometry
from tramontane.runtime.errors import ConfigError, ContractError

GEOMETRY = Geometry(
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=256,
    layers=(CacheLayout(window=8, rows=24),) * 2,
    max_positions=512,
)
# What each recipe does in three rounds; the second one fell into another process's work.
PREFILL = {"fp32 ort": (100, 10, 200), "int8 ort": (50, 6, 90), "int8 web": (150, 25, 400)}
DECODE = {"fp32 ort": (40, 4, 60), "int8 ort": (10, 1, 12), "int8 web": (44, 5, 60)}
LOAD_MS = {"fp32 ort": (30, 900, 31), "int8 ort": (20, 10, 15), "int8 web": (25, 25, 26)}
HEAP = {"fp32 ort": 40_000_000, "int8 ort": 24_000_000, "int8 web": 20_000_000}
FILES = {"fp32 ort": 20_000_000, "int8 ort": 6_000_000, "int8 web": 5_000_000}


def artifacts() -> list[figures.Artifact]:
    return [
        figures.Artifact(
            model="tiny",
            recipe=recipe,
            folder=Path(recipe.replace(" ", "-")),
            geometry=GEOMETRY,
            file_bytes=size,
        )
        for recipe, size in FILES.items()
    ]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A runner that answers from the tables above; the jobs that it was given."""
    given: list[dict[str, Any]] = []

    def run(command: Sequence[object], **_: object) -> str:
        job = json.loads(Path(str(command[2])).read_text())
        recipes = [Path(folder).name.replace("-", " ") for folder in job["artifacts"]]
        before = sum(one["artifacts"] == job["artifacts"] for one in given)
        given.append(job)
        answer = {
            "versions": {"onnxruntime-web": "1.2.3", "node": "4.5.6"},
            "processor": "Abacus",
            "artifacts": [
                {
                    "load_ms": LOAD_MS[recipe][before % 3],
                    "rounds": [
                        {
                            "prefill_tokens_per_s": PREFILL[recipe][at],
                            "decode_tokens_per_s": DECODE[recipe][at],
                        }
                        for at in range(3 if job["rounds"] else 0)
                    ],
                }
                for recipe in recipes
            ],
            "heap_bytes": sum(HEAP[recipe] for recipe in recipes),
        }
        return f"a warning\n{json.dumps(answer)}\n"

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(node, "node_with", lambda *_: Path("web"))
    monkeypatch.setattr(web_speed, "export", lambda *_, **__: artifacts())
    monkeypatch.setattr(web_speed, "LOADS", 3)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    return given


def rows() -> dict[str, figures.WebSpeed]:
    speeds, loads = web_speed.measure(artifacts(), Path("web"), threads=1)
    found = figures.as_rows(artifacts(), speeds, loads, threads=1)
    return {row.recipe: row for row in found}


def test_figures_are_medians_and_ratios_are_of_one_round(jobs: list[dict[str, Any]]) -> None:
    web = rows()["int8 web"]
    assert (web.load_ms, web.prefill_tokens_per_s, web.decode_tokens_per_s) == (25, 150, 44)
    # 1.5, 2.5 and 2: not 150 / 100, the medians' own ratio
    assert web.prefill_of_fp32 == figures.Ratio(median=2.0, least=1.5, most=2.5)
    assert web.decode_of_fp32.median == pytest.approx(44 / 40)
    assert rows()["int8 ort"].decode_of_fp32.most == pytest.approx(1 / 4)


def test_base_is_one_to_itself(jobs: list[dict[str, Any]]) -> None:
    base = rows()[figures.BASE]
    assert base.load_ms == 31
    assert base.decode_of_fp32 == figures.Ratio(median=1.0, least=1.0, most=1.0)


def test_a_heap_is_that_of_an_artifact_alone_and_speed_of_all_in_turns(
    jobs: list[dict[str, Any]],
) -> None:
    web = rows()["int8 web"]
    assert (web.heap_bytes, web.heap_of_fp32) == (20_000_000, 0.5)
    *alone, together = jobs
    assert [Path(job["artifacts"][0]).name for job in alone] == [
        one.folder.name for one in artifacts()
    ] * 3
    assert all(len(job["artifacts"]) == 1 and job["rounds"] == 0 for job in alone)
    assert len(together["artifacts"]) == 3
    assert together["rounds"] >= 5


def test_table_page_and_json_tell_the_same(
    jobs: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "web.md"
    assert web_speed.main(["models/tiny", "--window", "8", "--out", str(page)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert not any("{" in line for line in table)
    assert web_speed.main(["models/tiny", "--window", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {(row["recipe"], row["threads"]) for row in told["rows"]} == {
        (recipe, threads) for recipe in FILES for threads in (1, 2)
    }
    assert sum("2.00" in line and "150" in line for line in table) == 2
    text = page.read_text(encoding="utf-8")
    title, _, command, *_ = text.splitlines()
    assert title == "# Speed of each recipe in a browser's WASM"
    assert command.startswith("Printed by `make bench-web` (`python -m ")
    assert command.endswith("bench.web tiny --window 8`):")
    cells = "tiny | int8 web | 2 | 5.0 | 25 | 150 | 2.00 (1.50-2.50) | 44.0 | 1.10 (1.00-1.25)"
    assert f"| {cells} | 20.0 | 0.50 |" in text
    assert "| int8 ort | `MatMulNBits` | 0.25 to 0.25 | 0.50 to 0.50 | 0.60 to 0.60 |" in text
    assert f"- {told['machine']['processor']}, 8 cores, " in text
    assert "onnxruntime-web 1.2.3, node 4.5.6" in text
    assert "tiny: 2 layers, 2 key/value heads of 16, vocabulary 256, window 8, 24 rows" in text


def test_the_page_in_docs_has_the_words_that_are_printed_now(
    jobs: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "web.md"
    assert web_speed.main(["models/tiny", "--window", "8", "--out", str(out)]) == 0
    page = (Path(__file__).parents[2] / "docs" / "web.md").read_text("utf-8").splitlines()
    words = [line for line in out.read_text("utf-8").splitlines() if not re.search(r"\d", line)]
    assert len(words) > 15
    assert not set(words) - set(page)


def test_every_recipe_that_is_measured_has_a_word_on_how_it_multiplies() -> None:
    measured = {f"{quant} {target}" for quant, target in web_speed.RECIPES}
    assert measured == {figures.BASE, *figures.MULTIPLIES}


def test_one_core_is_asked_for_one_thread(
    jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert web_speed.main(["models/tiny"]) == 0
    assert {job["threads"] for job in jobs} == {1}


@pytest.mark.parametrize(
    ("module", "lacking", "told"),
    [
        (node, "node_with", "onnxruntime-web@1.30.0: npm: not on PATH; expected Node with npm"),
        (commands, "run", "tiny, fp32 ort: npm: not on PATH; expected Node that runs it in WASM"),
    ],
)
def test_what_is_absent_is_refused_by_name(
    jobs: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    lacking: str,
    told: str,
) -> None:
    def absent(*_: object, **__: object) -> Path:
        raise Absent("npm: not on PATH")

    monkeypatch.setattr(module, lacking, absent)
    with pytest.raises(ContractError, match=re.escape(told)):
        web_speed.main(["models/tiny"])


def test_too_few_positions_are_refused_before_anything_is_exported(
    stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(web_speed, "PREFILL", 1 << 20)
    with pytest.raises(ConfigError, match="positions, expected at least 1048608: a prefill of"):
        web_speed.export(stdlib_5m, tmp_path, window=None)
    assert not any(tmp_path.iterdir())
