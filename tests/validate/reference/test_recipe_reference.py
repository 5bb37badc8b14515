"""Does the recipe's reference compute what artifacts compute, for any model, and nothing else?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import (
    ExportOptions,
    options_named,
)
from tramontane.runtime.session import Session
from tramontane.validate.figures import by_position
from tramontane.validate.gate import Gate
from tramontane.validate.graph_under_test import open_graph_under_test
from tramontane.validate.measurement import GateOptions
from tramontane.validate.reference.kernel_rounding import KernelRounding
from tramontane.validate.reference.recipe_reference import Expected, RecipeReference
from tramontane.validate.reference.weights import ArtifactWeights, CheckpointWeights
from tramontane.validate.run_gate import Verdict, validate
from tramontane.validate.tolerance import Floor, tolerance_for

Artifact = Callable[[str], Path]
RECIPES = [
    "fp32-ort",
    "int8-ort",
    "int4-ort",
    "int8-dynamic-ort",
    "int8-web",
    "int4-portable",
    "int8-ort-int8",
]


def expected(gate: Gate, tokens: np.ndarray) -> Expected:
    """What the recipe makes of a sequence, by the artifact's own weights."""
    roles = gate.tested.graph.tensor_roles(gate.tested.config.num_hidden_layers)
    own = ArtifactWeights(
        tested=gate.tested,
        roles=roles,
        checkpoint=gate.reference.checkpoint,
        rounding=KernelRounding(gate.tested),
    )
    return RecipeReference(gate.tested, gate.reference, own).runs([tokens])[0]


@pytest.fixture
def checkpoint(stdlib_5m: Path) -> Checkpoint:
    return Checkpoint.open(stdlib_5m)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_artifact_is_as_near_as_the_reference_is_to_itself_in_the_last_bits(
    embedded_artifact: Artifact, checkpoint: Checkpoint, recipe: str
) -> None:
    folder = embedded_artifact(recipe)
    gate = Gate(open_graph_under_test(folder, checkpoint.config), checkpoint, GateOptions())
    tokens = gate.words.tokens(gate.text, 300)
    one = expected(gate, tokens)
    assert one.floor is not None
    logits = Session.load(folder).prefill([int(t) for t in tokens], all_logits=True)
    found = by_position(one.run.logits, logits, tokens)
    assert found.kl.mean() < 1.5 * one.floor.kl.mean()
    assert found.difference.max() < 2 * one.floor.difference.max()


def test_in_float_the_recipe_is_the_float_reference(
    embedded_artifact: Artifact, checkpoint: Checkpoint
) -> None:
    gate = Gate(
        open_graph_under_test(embedded_artifact("fp32-ort"), checkpoint.config),
        checkpoint,
        GateOptions(),
    )
    tokens = gate.words.tokens(gate.text, 150)
    own = CheckpointWeights(checkpoint=checkpoint)
    published = RecipeReference(gate.tested, gate.reference, own).runs([tokens])[0]
    plain = gate.reference.runs([tokens])[0]
    for one in (published, expected(gate, tokens)):
        np.testing.assert_allclose(one.run.logits, plain.logits, atol=1e-4)
        np.testing.assert_allclose(one.run.keys, plain.keys, atol=1e-4)
        assert one.floor is not None
        assert one.floor.kl.mean() < 1e-9


@pytest.mark.slow
def test_rounding_lifts_the_noise_far_above_that_of_float(
    embedded_artifact: Artifact, checkpoint: Checkpoint
) -> None:
    floors = {}
    for recipe in ("int4-portable", "int4-ort"):  # activations in float, and rounded
        tested = open_graph_under_test(embedded_artifact(recipe), checkpoint.config)
        gate = Gate(tested, checkpoint, GateOptions())
        floor = expected(gate, gate.words.tokens(gate.text, 100)).floor
        assert floor is not None
        floors[recipe] = floor.kl.mean()
    assert floors["int4-ort"] > 1e4 * floors["int4-portable"]


def test_bounds_follow_the_floor_and_means_need_positions() -> None:
    floor = Floor(
        kl=np.full(400, 1e-4),
        difference=np.linspace(0, 0.2, 400),
        row_error=0.05,
        mean_row_error=0.01,
    )
    tolerance = tolerance_for()
    assert tolerance.logits_bounds(floor, 65) == {"max_logit_difference": pytest.approx(0.6)}
    assert tolerance.logits_bounds(floor, 400)["mean_kl"] == pytest.approx(3e-4)
    assert tolerance.cache_bounds(floor) == {
        "cache_error": pytest.approx(0.15),
        "mean_cache_error": pytest.approx(0.03),
    }
    assert tolerance.greedy_bound(floor) == {"greedy_gap": pytest.approx(1.2)}
    assert tolerance.logits_bounds(None, 400) == tolerance.cache_bounds(None) == {}
    assert tolerance_for(scale=2).logits_bounds(floor, 400)["mean_kl"] == pytest.approx(6e-4)


def test_where_few_positions_moved_the_mean_is_that_of_those() -> None:
    """How many activations may be rounded either way is chance, where they are few."""
    kl = np.full(256, 1e-13)
    kl[[66, *range(230, 256)]] = 1e-4
    floor = Floor(kl=kl, difference=kl, row_error=0.0, mean_row_error=0.0)
    assert floor.mean_kl(256) == pytest.approx(1e-4)
    kl[100:230] = 2e-5  # most moved: the mean is that of all
    assert floor.mean_kl(256) == pytest.approx(kl.mean())
    kl[:200] = 3e-4
    assert floor.mean_kl(200) == pytest.approx(3e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "recipe"),
    [("stories15M", "int8-ort"), ("stories260K", "int4-ort"), ("stories260K", "int8-dynamic-ort")],
)
def test_trained_models_of_others_pass_on_text_of_their_own_kind(
    shared: Path, tmp_path: Path, model: str, recipe: str
) -> None:
    verdict = proved(shared, model, options_named(recipe), tmp_path)
    assert [check.failures for check in verdict.measurement.checks if check.failures] == []
    assert verdict.as_json()["headline"]["distance"] in ("close", "usable")


@pytest.mark.slow
def test_a_model_on_text_that_it_never_saw_passes_and_is_called_poor(
    shared: Path, tmp_path: Path
) -> None:
    recipe = ExportOptions(quant="int4", target="ort")
    verdict = proved(shared, "stories260K", recipe, tmp_path, GateOptions())
    assert verdict.measurement.passed
    assert verdict.as_json()["headline"]["distance"] == "poor"
    assert any(
        "measure on a text like the training data" in note for note in verdict.measurement.notes
    )


def proved(
    shared: Path,
    model: str,
    recipe: ExportOptions,
    folder: Path,
    options: GateOptions | None = None,
) -> Verdict:
    """Export a trained model, and compare it with its checkpoint on stories."""
    source = shared / "models" / model
    export_checkpoint(source, folder / "a", recipe)
    stories = GateOptions(text=shared / "corpora" / "tinystories.txt")
    return validate(folder / "a", Checkpoint.open(source), options or stories)
