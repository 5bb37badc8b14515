"""Do torch and the artifact agree, and does the gate notice where they don't?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tramontane.errors import ContractError, ParityError
from tramontane.export.build import Options, export_checkpoint
from tramontane.graphs.recipe import QUANTS
from tramontane.runtime.contract import Geometry
from tramontane.validate.gate import gate, report, validate
from tramontane.validate.parity import Check, chunks, lengths, raise_if_broken


def geometry(window: int | None, rows: int | None) -> Geometry:
    return Geometry(
        num_layers=1,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=8,
        window=window,
        rows=rows,
        max_positions=4096,
    )


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Artifacts of the embedded model, exported once per recipe and not yet proved."""
    root = tmp_path_factory.mktemp("artifacts")
    model = Path(__file__).parents[2] / "models" / "stdlib-5m"

    def artifact(quant: str, target: str) -> Path:
        out = root / f"{quant}-{target}"
        if not out.exists():
            export_checkpoint(model, out, Options(quant=quant, target=target))
        return out

    return artifact


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.failures]


def mutate(artifact: Path, copy: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of an artifact with a fault planted in its graph."""
    shutil.copytree(artifact, copy)
    graph = onnx.load(copy / "model.onnx", load_external_data=False)
    change(graph)
    onnx.save(graph, copy / "model.onnx")
    return copy


def set_window(model: onnx.ModelProto, window: int) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("local_window_size", "window"):
                attribute.i = window


def test_lengths_straddle_the_window_and_go_three_windows_far() -> None:
    assert lengths(geometry(64, 80)) == [1, 63, 64, 65, 192, 1024]
    assert lengths(geometry(4096, 4608))[-1] == 4096  # as far as positions go


def test_chunks_straddle_the_edge_and_an_eviction() -> None:
    sizes = chunks(geometry(64, 80), 200)
    borders = {sum(sizes[:i]) for i in range(len(sizes) + 1)}
    assert sum(sizes) == 200
    assert {63, 65, 79, 80, 82, 98} <= borders


@pytest.mark.parametrize("target", ["ort", "portable"])
@pytest.mark.parametrize("quant", QUANTS)
def test_the_embedded_model_is_proved(
    artifacts: Callable[[str, str], Path], stdlib_5m: Path, quant: str, target: str
) -> None:
    assert failed(validate(artifacts(quant, target), stdlib_5m)) == []


@pytest.mark.parametrize("target", ["ort", "portable"])
@pytest.mark.parametrize("quant", ["fp32", "int8"])
@pytest.mark.parametrize("window", [63, 65])
def test_a_window_off_by_one_is_noticed(
    artifacts: Callable[[str, str], Path],
    stdlib_5m: Path,
    tmp_path: Path,
    quant: str,
    target: str,
    window: int,
) -> None:
    faulty = mutate(
        artifacts(quant, target), tmp_path / "faulty", lambda model: set_window(model, window)
    )
    checks = validate(faulty, stdlib_5m)
    broken = failed(checks)
    assert "text, stepped, 1024 tokens" in broken
    assert not any(", 63 tokens" in name for name in broken if window == 65)
    with pytest.raises(ParityError, match="parity checks failed:\n  text"):
        raise_if_broken(checks, artifact=faulty)


def test_half_a_window_is_noticed_in_int4(
    artifacts: Callable[[str, str], Path], stdlib_5m: Path, tmp_path: Path
) -> None:
    faulty = mutate(
        artifacts("int4", "ort"), tmp_path / "faulty", lambda model: set_window(model, 32)
    )
    checks = validate(faulty, stdlib_5m)
    assert failed(checks) == [
        f"{source}, {mode}, 1024 tokens"
        for source in ("text", "random")
        for mode in ("one shot", "chunked", "stepped")
    ]
    with pytest.raises(ParityError, match="6 of 17 parity checks failed:\n  text"):
        raise_if_broken(checks, artifact=faulty)


def test_a_norm_with_another_epsilon_is_noticed(
    artifacts: Callable[[str, str], Path], stdlib_5m: Path, tmp_path: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = 1e-3

    faulty = mutate(artifacts("fp32", "ort"), tmp_path / "faulty", change)
    assert "text, one shot, 64 tokens" in failed(validate(faulty, stdlib_5m))


def test_a_failed_gate_leaves_nothing_and_keeps_the_artifact_before(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artifact"
    export_checkpoint(stdlib_5m, out, Options(quant="int8", target="ort"))
    before = (out / "manifest.json").read_bytes()

    def broken_gate(*_: object) -> dict[str, float]:
        raise ParityError("planted")

    with pytest.raises(ParityError, match="planted"):
        export_checkpoint(stdlib_5m, out, Options(quant="fp32", target="ort"), gate=broken_gate)
    assert (out / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_the_report_and_the_manifest_carry_the_figures(stdlib_5m: Path, tmp_path: Path) -> None:
    manifest = export_checkpoint(
        stdlib_5m, tmp_path / "a", Options(quant="fp32", target="ort"), gate=gate
    )
    written = json.loads((tmp_path / "a" / "parity" / "report.json").read_text())
    assert written["passed"]
    assert written["headline"] == manifest.parity
    assert manifest.parity is not None
    assert manifest.parity["same_greedy_tokens"] == 256
    assert "parity/report.json" in manifest.files
    assert str(manifest.parity["mean_kl"]) in (tmp_path / "a" / "README.md").read_text()


def test_figures_that_are_not_numbers_become_null() -> None:
    figures = {"mean_kl": 0.0, "positions": 1.0, "max_logit_difference": 0.0, "same_top": 1.0}
    perplexities = {"artifact_perplexity": 2.0, "reference_perplexity": 2.0}
    single = {**figures, **perplexities}
    checks = [
        Check(name="text, x", figures=single, failures=()),
        Check(name="random, x", figures={**single, "max_kl": float("nan")}, failures=()),
        Check(name="greedy", figures={"same_greedy_tokens": 1, "greedy_tokens": 1}, failures=()),
    ]
    assert report(checks)["checks"][1]["figures"]["max_kl"] is None


def test_a_reference_of_another_geometry_is_refused(
    artifacts: Callable[[str, str], Path], tiny_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(ContractError, match="name the checkpoint that it was exported from"):
        validate(artifacts("fp32", "ort"), tiny_checkpoint())
