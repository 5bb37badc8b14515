"""Are artifacts proved, faults refused, and reports what was measured?"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import (
    ExportOptions,
    options_named,
)
from tramontane.faults.planted import in_attention, in_cache, in_operators
from tramontane.faults.planting import Fault, planted
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.errors import ContractError, ParityError
from tramontane.validate.measurement import GateOptions
from tramontane.validate.reference import shared_prefixes
from tramontane.validate.run_gate import Verdict, require_parity, validate
from tramontane.validate.sequences import tokens
from tramontane.validate.verdict import Check

pytestmark = pytest.mark.slow

Artifact = Callable[[str], Path]
ArtifactOf = Callable[[Path, str], Path]
# ``make parity`` proves the bundled model in the others too.
RECIPES = ["fp32-ort", "fp32-portable", "int8-dynamic-ort"]
TINY_RECIPES = ["int8-ort", "int4-ort", "int8-portable", "int4-portable", "int8-web"]


@pytest.fixture(scope="module")
def tiny(two_layers: Path) -> Checkpoint:
    """Two layers with a window of 8: for tests of the gate that need no trained model."""
    return Checkpoint.open(two_layers)


@pytest.fixture(scope="module")
def tiny_artifact(two_layers: Path, artifact_of: ArtifactOf) -> Artifact:
    """Artifacts of the tiny model by recipe, not proved; each made once."""
    return lambda recipe: artifact_of(two_layers, recipe)


@pytest.fixture(scope="module")
def verdict_on(embedded_artifact: Artifact, stdlib_5m: Path) -> Callable[[str], Verdict]:
    """What the gate says of a good artifact, by its recipe; each is measured once."""

    @functools.cache
    def verdict(recipe: str) -> Verdict:
        checkpoint = Checkpoint.open(stdlib_5m)
        return validate(embedded_artifact(recipe), checkpoint, GateOptions(), explains=True)

    return verdict


def fault(name: str) -> Fault:
    every = (*in_attention.FAULTS, *in_cache.FAULTS, *in_operators.FAULTS)
    return next(one for one in every if one.name == name)


def failed(verdict: Verdict) -> list[Check]:
    return [check for check in verdict.measurement.checks if check.failures]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_embedded_model_is_proved(verdict_on: Callable[[str], Verdict], recipe: str) -> None:
    assert_proved(verdict_on(recipe), recipe)


@pytest.mark.parametrize("recipe", TINY_RECIPES)
def test_a_tiny_model_is_proved(tiny_artifact: Artifact, tiny: Checkpoint, recipe: str) -> None:
    assert_proved(validate(tiny_artifact(recipe), tiny, GateOptions(), explains=True), recipe)


def assert_proved(verdict: Verdict, recipe: str) -> None:
    """All kinds of checks were made, and none failed."""
    assert failed(verdict) == []
    assert verdict.explanation is None
    kinds = {check.kind for check in verdict.measurement.checks}
    rounds = options_named(recipe).recipe.rounds_in_calibration
    parts = {"weights", "operators", "rows"}
    wholes = {"distance", "logits", "cache", "greedy", "batch", "tokenizer"}
    assert kinds == wholes | parts | ({"rounding"} if rounds else set())
    bounded = [check for check in verdict.measurement.checks if check.bounds]
    assert len(bounded) == len(verdict.measurement.checks) - 1  # random tokens' distance


@pytest.mark.parametrize(
    ("quant", "seed"), [("fp32", 1), ("int8", 2), ("int4", 3), ("int8-dynamic", 4)]
)
def test_other_seeds_of_tokens_pass(
    tiny_artifact: Artifact, tiny: Checkpoint, quant: str, seed: int
) -> None:
    options = GateOptions(seed=seed)
    assert failed(validate(tiny_artifact(f"{quant}-ort"), tiny, options)) == []


def test_both_lengths_of_a_ragged_batch_are_checked_where_the_target_allows_it(
    verdict_on: Callable[[str], Verdict],
) -> None:
    names = {}
    for recipe in ("fp32-portable", "fp32-ort"):
        checks = verdict_on(recipe).measurement.checks
        found = [check.name for check in checks if check.kind == "batch"]
        names[recipe] = found
    assert names["fp32-portable"] == [
        "batch of 2, text, 76 and 24 tokens",
        "batch of 2, random, 32 and 24 tokens",
        "batch of 2 padded on the left, text, 76 and 24 tokens",
        "batch of 2 padded on the left, random, 32 and 24 tokens",
    ]
    assert all(" 76 and 24 tokens" in name for name in names["fp32-ort"])


def test_a_batch_padded_on_the_left_is_checked_where_the_cache_grows(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    recipe = ExportOptions(quant="int8", target="ort", cache="growing")
    export_checkpoint(tiny.path, tmp_path / "a", recipe)
    verdict = validate(tmp_path / "a", tiny, GateOptions())
    assert failed(verdict) == []
    names = [check.name for check in verdict.measurement.checks if check.kind == "batch"]
    assert sum("padded on the left" in name for name in names) == 2


def test_padding_on_the_left_that_is_read_is_caught_by_its_batch_alone(
    tiny_artifact: Artifact, tiny: Checkpoint, tmp_path: Path
) -> None:
    wrong = fault("padding on the left is not masked")
    spoilt = planted(wrong, tiny_artifact(wrong.recipe), tmp_path / "spoilt", tiny.path)
    verdict = validate(spoilt, tiny, GateOptions(), explains=True)
    assert {"padded on the left" in check.name for check in failed(verdict)} == {True}
    assert verdict.explanation is not None
    assert verdict.explanation.place.startswith(wrong.place)
    assert wrong.cause in verdict.explanation.cause


def test_a_window_that_is_off_by_one_shows_in_logits_and_operators_of_four_bits(
    tiny_artifact: Artifact, tiny: Checkpoint, tmp_path: Path
) -> None:
    wrong = fault("window one key too long in the mask: >= for >")
    spoilt = planted(wrong, tiny_artifact(wrong.recipe), tmp_path / "spoilt", tiny.path)
    verdict = validate(spoilt, tiny, GateOptions(), explains=True)
    assert {"logits", "operators"} <= {check.kind for check in failed(verdict)}
    assert verdict.explanation is not None
    assert "the window is 9, expected 8" in verdict.explanation.cause
    assert verdict.explanation.place.startswith("layer 0, attention, worst at position")


def test_a_fault_that_only_long_sequences_meet_is_found_by_replaying_one(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    wrong = fault("rope's tables end after 512 positions")
    model = tiny_checkpoint(sliding_window=64, max_position_embeddings=1024)
    export_checkpoint(model, tmp_path / "good", options_named(wrong.recipe))
    spoilt = planted(wrong, tmp_path / "good", tmp_path / "spoilt", model)
    verdict = validate(spoilt, Checkpoint.open(model), GateOptions(), explains=True)
    assert verdict.measurement.layer_checks is not None
    assert (
        verdict.measurement.layer_checks.first_broken is None
    )  # 105 positions are too few to show it
    assert verdict.explanation is not None
    assert "rope stops at position 511" in verdict.explanation.cause


def test_a_failed_gate_names_the_culprit_and_leaves_nothing(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artifact"
    export_checkpoint(stdlib_5m, out, ExportOptions(quant="int8", target="ort"))
    before = (out / "manifest.json").read_bytes()

    def spoiling(folder: Path, checkpoint: Checkpoint) -> dict[str, float]:
        spoilt = planted(fault("scores capped"), folder, tmp_path / "spoilt")
        return require_parity(spoilt, checkpoint)

    with pytest.raises(ParityError) as refused:
        export_checkpoint(stdlib_5m, out, ExportOptions(quant="int8", target="ort"), gate=spoiling)
    assert re.search(r"parity checks failed:\n  \d+ operators", str(refused.value))
    assert "first at fault: layer 0, attention" in str(refused.value)
    assert "likely cause: scores are capped at 30" in str(refused.value)
    assert (out / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "spoilt"]
    assert not (tmp_path / "spoilt" / "parity").exists()


@pytest.mark.usefixtures("all_cores")
def test_the_report_and_the_manifest_carry_the_figures(tiny: Checkpoint, tmp_path: Path) -> None:
    recipe = ExportOptions(quant="fp32", target="ort")
    manifest = export_checkpoint(tiny.path, tmp_path / "a", recipe, gate=require_parity)
    written = json.loads((tmp_path / "a" / "parity" / "report.json").read_text())
    assert written["passed"]
    assert written["headline"] == manifest.parity
    assert manifest.parity is not None
    assert manifest.parity["same_greedy_tokens"] == 32
    assert {"parity/report.json", "parity/report.html"} <= manifest.files.keys()
    assert str(manifest.parity["mean_kl"]) in (tmp_path / "a" / "README.md").read_text()
    assert str(tmp_path) not in json.dumps(written)


def test_a_figure_that_is_no_number_fails_and_is_null_in_the_report(
    tiny_artifact: Artifact, tiny: Checkpoint, tmp_path: Path
) -> None:
    def divided_by_nothing(graph: object) -> None:
        graph.change("norm.weight", lambda weight: weight * float("nan"))  # type: ignore[attr-defined]

    wrong = dataclasses.replace(fault("last norm skipped"), plant=divided_by_nothing)
    spoilt = planted(wrong, tiny_artifact("fp32-ort"), tmp_path / "spoilt")
    verdict = validate(spoilt, tiny, GateOptions(), explains=True)
    assert {"logits", "operators"} <= {check.kind for check in failed(verdict)}
    report = verdict.as_json()
    assert report["checks"][0]["figures"]["mean_kl"] is None
    assert verdict.explanation is not None
    assert verdict.explanation.place.startswith("norm")


def test_a_scale_of_the_tolerances_moves_every_bound_and_is_told(
    tiny_artifact: Artifact, tiny: Checkpoint
) -> None:
    tight = validate(tiny_artifact("int8-ort"), tiny, GateOptions(tolerance=1e-3))
    assert any("mean KL" in failure for check in failed(tight) for failure in check.failures)
    report = tight.as_json()
    assert report["tolerance"]["scale"] == 1e-3
    assert report["tolerance"]["noise"] == pytest.approx(3e-3)
    assert report["repeat"].endswith("--tolerance 0.001")
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ContractError, match="--tolerance .* expected a number above 0"):
            validate(tiny_artifact("int8-ort"), tiny, GateOptions(tolerance=scale))


def test_an_artifact_beyond_the_distance_that_was_asked_for_fails_and_says_what_to_try(
    tiny_artifact: Artifact, tiny: Checkpoint
) -> None:
    asked = GateOptions(min_agreement=0.99, max_kl=1e-3)
    verdict = validate(tiny_artifact("int4-ort"), tiny, asked, explains=True)
    assert [check.kind for check in failed(verdict)] == ["distance"]
    assert verdict.explanation is not None
    assert (
        verdict.explanation.cause == "int4 changes this model's outputs by this much on this text"
    )
    assert verdict.explanation.advice == (
        "measure on a text like the training data (--text; this was our own), or export "
        "with --block 32, or --quant int8"
    )
    assert verdict.as_json()["repeat"].endswith("--max-kl 0.001 --min-agreement 0.99")
    for wrong in (
        GateOptions(max_kl=0),
        GateOptions(min_agreement=1.5),
        GateOptions(max_kl=float("nan")),
    ):
        with pytest.raises(ContractError, match="--max-kl|--min-agreement"):
            validate(tiny_artifact("int8-ort"), tiny, wrong)


def test_a_graph_that_cannot_be_looked_into_is_checked_from_outside(
    tiny_artifact: Artifact, tiny: Checkpoint, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(tiny_artifact("fp32-ort") / MODEL_FILE)
    names = {weight.name: f"w{i}" for i, weight in enumerate(model.graph.initializer)}
    names.pop("num_logits_to_keep")
    for weight in model.graph.initializer:
        weight.name = names.get(weight.name, weight.name)
    for node in model.graph.node:
        node.name = ""
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    onnx.save(model, tmp_path / "model.onnx")
    verdict = validate(tmp_path, tiny, GateOptions())
    assert failed(verdict) == []
    assert "weights and operators were not checked one by one" in verdict.measurement.notes[0]
    assert verdict.as_json()["findings"] == []


def test_of_a_large_window_random_tokens_follow_the_text_and_faults_are_still_found(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "LARGE_WINDOW", 32)  # of 64 tokens, what goes for 4096
    monkeypatch.setattr(shared_prefixes, "_FEWEST_SHARED", 16)
    source = tiny_checkpoint(sliding_window=64, max_position_embeddings=1024)
    export_checkpoint(source, tmp_path / "a", options_named("int8-ort"))
    checkpoint, store = Checkpoint.open(source), GateOptions(store=tmp_path / "store")
    found = validate(tmp_path / "a", checkpoint, store).measurement
    assert found.passed
    text, random = found.runs["text"].tokens, found.runs["random"].tokens
    assert (text[:63] == random[:63]).all()
    assert (text[63:] != random[63:]).any()
    lengths = {name for check in found.checks if (name := check.name).count("one shot")}
    assert {"text, one shot, 64 tokens", "random, one shot, 65 tokens"} <= lengths
    assert "random, one shot, 64 tokens" not in lengths
    assert any("random tokens follow 63 tokens of the text" in note for note in found.notes)
    fault = next(one for one in in_attention.FAULTS if one.name == "window of 65 for 64, in int8")
    spoilt = planted(fault, tmp_path / "a", tmp_path / "spoilt")
    again = validate(spoilt, checkpoint, store, explains=True)
    assert not again.measurement.passed
    assert again.explanation is not None
    assert fault.place in again.explanation.place


def test_a_window_that_is_not_the_checkpoints_own_is_noted(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint()
    export_checkpoint(folder, tmp_path / "a", ExportOptions(quant="fp32", target="ort", window=4))
    verdict = validate(tmp_path / "a", Checkpoint.open(folder), GateOptions())
    assert failed(verdict) == []
    note = (
        "the artifact's window is 4, the checkpoint's 8: it was exported with --window, and is "
        "measured with it"
    )
    assert note in verdict.measurement.notes
