"""Does an export with ``--quant auto`` keep to its size, and say what its recipe was chosen from?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.cli import main as cli
from tramontane.export.budget import fit
from tramontane.graphs.quantization.recipes.all_recipes import recipe_of
from tramontane.runtime import Session
from tramontane.runtime.manifest import read_manifest, verify_files
from tramontane.validate.figures import compare
from tramontane.validate.report.page import render_page

from ..calls import output, refusal

RNG = np.random.default_rng(11)
TOKENS = RNG.integers(0, 2048, 192)


@pytest.fixture(autouse=True)
def own_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_folder", lambda: tmp_path / "kept")


def logits(artifact: Path) -> np.ndarray:
    with Session.load(artifact) as session:
        return session.prefill(TOKENS.tolist(), all_logits=True)


@pytest.mark.slow
def test_artifact_of_a_size_is_no_further_from_the_model_than_the_default_recipe_of_that_size(
    two_layers: Path,
    artifact_of: Callable[[Path, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    int4, fp32 = artifact_of(two_layers, "int4-ort"), artifact_of(two_layers, "fp32-ort")
    most, out = read_manifest(int4).memory.weights_bytes, tmp_path / "out"
    given = ["--quant", "auto", "--size", most, "--out", out]
    said = output(capsys, "export", two_layers, *given, "--json")
    assert json.loads(said.splitlines()[-1])["artifact"] == str(out)
    manifest = read_manifest(out)
    verify_files(out, manifest)
    assert manifest.memory.weights_bytes <= most
    assert manifest.quant == f"auto-{most}"
    assert recipe_of(manifest).text == manifest.recipe
    reference = logits(fp32)
    kl, kl_of_int4 = (compare(reference, logits(one), TOKENS).mean_kl for one in (out, int4))
    assert kl <= kl_of_int4
    # The report says the same as the manifest, and draws it.
    budget = manifest.budget
    assert budget is not None
    assert budget.option == f"--size {most}"
    assert budget.chosen.bits_per_weight == pytest.approx(manifest.bits_per_weight)
    assert len(budget.frontier) > 3
    report = json.loads((out / "parity" / "report.json").read_text())
    assert report["budget"]["chosen"]["kl"] == pytest.approx(budget.chosen.kl, rel=1e-5)
    page = render_page(report)
    assert f"--size {most}" in page
    assert "Line: expected mean KL of the best recipe over its size" in page
    del report["budget"]
    assert "best recipe" not in render_page(report)
    # Its recipe can be taken again.
    again = tmp_path / "again"
    output(capsys, "export", two_layers, "--recipe", out, "--out", again, "--no-validate")
    data = "onnx/model.onnx_data"
    assert (again / data).read_bytes() == (out / data).read_bytes()
    assert read_manifest(again).budget is None


def test_name_is_made_of_the_size_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    auto = ["export", "a/model", "--quant", "auto", "--print-out"]
    assert output(capsys, *auto, "--bits", "4.50") == "artifacts/model-auto-4.5-bits-ort\n"
    assert output(capsys, *auto, "--size", "3.8 GB") == "artifacts/model-auto-3.8GB-ort\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--quant", "auto"], "--size, --bits: neither is given, expected one of them"),
        (["--quant", "auto", "--bits", "0.5"], "--bits 0.5: expected 1 to 32 bits a weight"),
        (["--quant", "auto", "--bits", "nan"], "--bits nan: expected 1 to 32 bits a weight"),
        (["--quant", "auto", "--size", "4 parsecs"], "--size 4 parsecs: not a size"),
        (["--quant", "int4", "--bits", "4"], "--bits 4: given without --quant auto"),
        (["--size", "1GB"], "--size 1GB: given without --quant auto"),
    ],
)
def test_what_is_no_size_is_refused(
    two_layers: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "export", two_layers, *given, "--json")


@pytest.mark.slow
def test_size_that_no_recipe_reaches_is_refused_with_the_smallest_which_works(
    two_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    auto = ["export", two_layers, "--quant", "auto", "--out", out, "--no-validate", "--json"]
    said = refusal(capsys, *auto, "--size", "1kB")
    assert "--size 1kB: 1.00 kB of weights, expected at least " in said
    smallest = said.split("give at least --size ")[1].split()[0]
    too_small = refusal(capsys, *auto, "--size", int(smallest) - 1)
    assert f"give at least --size {smallest}" in too_small
    output(capsys, *auto, "--size", smallest)
    assert read_manifest(out).memory.weights_bytes == int(smallest)


def test_inspect_plans_recipes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["inspect", "models/stdlib-5m", "--quant", "auto"])
    assert "--quant auto: expected one of fp32, int8, " in capsys.readouterr().err
