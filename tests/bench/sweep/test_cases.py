"""Are the artifacts of a sweep those that were asked for, each once, and named apart?"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from tramontane.bench.sweep.cases import Asked, cases_of
from tramontane.runtime.errors import ConfigError

from ...cli.calls import refusal


def asked(*models: Path, out: Path, recipes: tuple[str, ...] = ("int8",)) -> Asked:
    return Asked(models=models, recipes=recipes, targets=("ort", "web", "ort"), out=out)


def test_each_recipe_of_each_model_for_each_target_is_one_case(
    two_layers: Path, stdlib_5m: Path, tmp_path: Path
) -> None:
    own = tmp_path / "my.toml"
    own.write_text('[matrices]\n"*" = { bits = 8, block = 32 }\n')
    given = asked(
        two_layers, stdlib_5m, two_layers, out=tmp_path, recipes=("int8", str(own), "int8")
    )
    first, second = cases_of(given)
    assert [first.model, second.model] == [two_layers.name, "stdlib-5m"]
    names = [one.name for one in first.cases]
    mine = first.cases[2].recipe.name
    assert mine.startswith("my-")
    assert names == ["ort int8", "web int8", f"ort {mine}", f"web {mine}"]
    every = [*first.cases, *second.cases]
    assert len({one.artifact for one in every}) == len({one.made_of for one in every}) == 8
    assert {one.artifact.parent for one in every} == {tmp_path}


def test_all_that_decides_figures_decides_whether_an_artifact_is_kept(
    two_layers: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("a")
    before = asked(two_layers, out=tmp_path)
    found = {cases_of(before)[0].cases[0].made_of}
    for changed in ({"thorough": True}, {"text": text}):
        gate = dataclasses.replace(before.gate, **changed)
        found.add(cases_of(dataclasses.replace(before, gate=gate))[0].cases[0].made_of)
    text.write_text("b")
    gate = dataclasses.replace(before.gate, text=text)
    found.add(cases_of(dataclasses.replace(before, gate=gate))[0].cases[0].made_of)
    assert len(found) == 4


def test_two_models_of_one_name_are_refused(two_layers: Path, tmp_path: Path) -> None:
    other = tmp_path / two_layers.name
    shutil.copytree(two_layers, other)
    with pytest.raises(ConfigError, match=f"{other}: has the name of .*{two_layers.name}, exp"):
        cases_of(asked(two_layers, other, out=tmp_path))


def test_a_word_that_is_no_recipe_and_a_missing_model_are_refused(
    two_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "out"]
    said = refusal(capsys, "sweep", two_layers, *out, "--quants", "int8", "int9", "--json")
    assert "--quants int9: unknown, expected some of fp32, int8" in said
    missing = tmp_path / "missing"
    assert f"{missing}: no such folder" in refusal(capsys, "sweep", two_layers, missing, *out)
    said = refusal(capsys, "sweep", two_layers, *out, "--text", missing)
    assert f"--text {missing}: " in said
