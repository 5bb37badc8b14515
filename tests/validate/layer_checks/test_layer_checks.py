"""Is every weight and operator found, whatever the recipe, and each error where it is made?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.faults.planted import in_weights
from tramontane.faults.planting import Fault, Graph, planted
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.errors import ContractError
from tramontane.validate.causes.of_scales import cause_of_scales
from tramontane.validate.gate import Gate
from tramontane.validate.graph_under_test import GraphUnderTest, open_graph_under_test
from tramontane.validate.layer_checks.findings import LayerChecks, block_errors
from tramontane.validate.layer_checks.layer_checks import check_layers
from tramontane.validate.measurement import GateOptions
from tramontane.validate.probe import embedding_of, matrix_of
from tramontane.validate.reference import operators
from tramontane.validate.sequences.tokens import at_most, chunks
from tramontane.validate.tolerance import tolerance_for

Artifact = Callable[[str], Path]


def untracked(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


@pytest.fixture
def checkpoint(stdlib_5m: Path) -> Checkpoint:
    return Checkpoint.open(stdlib_5m)


def checked(
    artifact: Path, checkpoint: Checkpoint, layers: Sequence[int] = range(6), most: int = 1024
) -> LayerChecks:
    tested = open_graph_under_test(artifact, checkpoint.config)
    gate = Gate(tested, checkpoint, GateOptions())
    length = gate.spans.layers_checked
    return check_layers(
        tested,
        gate.reference,
        gate.words.tokens(gate.text, length),
        at_most(most, chunks(tested.edges, length)),
        layers=layers,
        tolerance=tolerance_for(tested.recipe.weight_errors, int8_cache=tested.has_int8_cache),
        track=untracked,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    ["fp32-ort", "int8-ort", "int4-ort", "int4-portable", "fp32-ort-int8", "int4-ort-int8"],
)
def test_every_matrix_and_operator_of_each_layer_is_looked_at_and_sound(
    embedded_artifact: Artifact, checkpoint: Checkpoint, recipe: str
) -> None:
    found = checked(embedded_artifact(recipe), checkpoint)
    assert found.first_broken is None
    weights = [one.place for one in found.findings if one.kind == "weights"]
    assert len(weights) == len(set(weights)) == 6 * 7 + 2
    for layer in range(6):
        names = {one.name for one in found.findings if one.layer == layer}
        assert {"attention_norm", "rope", "attention", "projection", "mlp_norm"} <= names
        assert {"cached keys", "cached values", "activation", "mlp.down"} <= names
    assert [one.name for one in found.findings[-3:]] == ["norm", "head", "logits"]
    assert len(found.drift) == 6


@pytest.mark.parametrize(("recipe", "bits"), [("int8-ort", 8), ("int4-rtn-ort", 4)])
def test_a_probed_matrix_is_the_one_that_was_packed(
    embedded_artifact: Artifact, checkpoint: Checkpoint, recipe: str, bits: int
) -> None:
    tested = open_graph_under_test(embedded_artifact(recipe), checkpoint.config)
    roles = tested.graph.tensor_roles(6)
    scheme = Scheme(bits=bits, block=128)
    published = checkpoint.read("layers.2.mlp.down.weight")
    expected = dequantize(quantize(published, scheme), scheme, columns=768)
    np.testing.assert_allclose(
        matrix_of(tested, roles.layers[2]["down"], 768), expected, atol=1e-6
    )
    rows = embedding_of(tested, roles, 2048)
    assert np.abs(rows - checkpoint.read("embedding.weight")).max() < 0.1


@pytest.mark.slow
def test_of_layers_that_are_left_out_the_matrices_are_compared(
    embedded_artifact: Artifact, checkpoint: Checkpoint
) -> None:
    for recipe in ("int8-ort", "int8-dynamic-ort"):
        found = checked(embedded_artifact(recipe), checkpoint, layers=[0, 4])
        assert found.first_broken is None
        operators = {one.layer for one in found.findings if one.kind == "operators"}
        assert operators == {None, 0, 4}
        weights = [one for one in found.findings if one.kind == "weights"]
        assert len(weights) == 6 * 7 + 2
        assert len(found.drift) == 6


def test_a_wrong_matrix_is_found_in_a_layer_that_is_left_out(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def doubled(graph: Graph) -> None:
        (name,) = graph.names("layers.3.mlp.up.weight.scales")
        graph.change(name, lambda scales: scales * np.float32(2))

    fault = Fault(name="scales", recipe="int8-ort", plant=doubled, place="", cause="")
    spoilt = planted(fault, embedded_artifact(fault.recipe), tmp_path / "spoilt")
    found = checked(spoilt, checkpoint, layers=[0, 5])
    assert found.first_broken is not None
    assert found.first_broken.finding.place == "layer 3, mlp.up weights"


@pytest.mark.slow
def test_smaller_pieces_show_the_same_tensors_and_all_are_sound(
    embedded_artifact: Artifact, checkpoint: Checkpoint
) -> None:
    whole = checked(embedded_artifact("fp32-ort"), checkpoint)
    parts = checked(embedded_artifact("fp32-ort"), checkpoint, most=16)
    assert max(parts.cuts) == 16 < max(whole.cuts)
    assert [one.place for one in parts.findings] == [one.place for one in whole.findings]
    assert parts.first_broken is None


def test_the_first_at_fault_is_named_and_later_ones_are_sound(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    fault = next(one for one in in_weights.FAULTS if one.name == "one scale doubled, in int8")
    spoilt = planted(fault, embedded_artifact("int8-ort"), tmp_path / "spoilt")
    found = checked(spoilt, checkpoint)
    assert found.first_broken is not None
    assert str(found.first_broken.finding) == "layer 0, mlp.gate weights, row 5, block 1"
    assert sum(one.is_broken for one in found.findings) == 1


@pytest.mark.parametrize(
    ("factor", "cause"),
    [(2.0, "64 of 64 scales are too large"), (0.5, "scales are too small")],
)
def test_scales_of_an_int8_cache_that_do_not_fit_are_found_where_they_are(
    embedded_artifact: Artifact,
    checkpoint: Checkpoint,
    tmp_path: Path,
    factor: float,
    cause: str,
) -> None:
    fault = Fault(
        name="scales",
        recipe="fp32-ort-int8",
        plant=lambda graph: graph.change(
            "cache_scales.3.value", lambda scales: scales * np.float32(factor)
        ),
        place="layer 3, value scales",
        cause=cause,
    )
    spoilt = planted(fault, embedded_artifact(fault.recipe), tmp_path / "spoilt")
    found = checked(spoilt, checkpoint)
    assert found.first_broken is not None
    assert found.first_broken.finding.place == fault.place
    assert cause in cause_of_scales(found.first_broken)[0]
    assert [one.place for one in found.findings if one.is_broken] == [fault.place]


def test_code_that_is_off_by_one_is_found_in_an_int8_cache(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def one_more(graph: Graph) -> None:
        one = graph.add_constant("one.code", np.array(1, np.int8))
        graph.between("present.2.value", "Add", one)

    fault = Fault(name="code", recipe="fp32-ort-int8", plant=one_more, place="", cause="")
    spoilt = planted(fault, embedded_artifact(fault.recipe), tmp_path / "spoilt")
    found = checked(spoilt, checkpoint)
    assert found.first_broken is not None
    assert found.first_broken.finding.place == "layer 2, cached values"
    assert found.first_broken.finding.error > 0.4  # of a step, beyond the half that is allowed


def test_a_block_is_compared_with_its_own_largest_weight() -> None:
    expected = np.float32([[1, 2, 4, 8], [0, 0, 100, 50]])
    found = expected + np.float32([[0.5, 0, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_allclose(block_errors(expected, found, 2), [[0.25, 0], [0.01, 0]])
    np.testing.assert_allclose(block_errors(expected, found, None), [[0.01]])
    assert block_errors(expected, found, 3).shape == (2, 2)  # the last block is short


def test_a_number_that_is_none_is_beyond_every_bound(
    embedded_artifact: Artifact, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "activate", lambda *parts: np.full_like(parts[0], np.nan))
    found = checked(embedded_artifact("fp32-ort"), checkpoint)
    assert found.first_broken is not None
    assert found.first_broken.finding.name == "activation"


def test_a_graph_whose_names_tell_nothing_is_refused_by_what_is_missing(
    embedded_artifact: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(embedded_artifact("fp32-ort") / MODEL_FILE)
    for number, weight in enumerate(model.graph.initializer):
        if "mlp.up" in weight.name:
            for node in model.graph.node:
                for index, name in enumerate(node.input):
                    if name == weight.name:
                        node.input[index] = f"w{number}"
            weight.name = f"w{number}"
    onnx.save(model, tmp_path / "model.onnx")
    tested = GraphUnderTest(tmp_path / "model.onnx", checkpoint.config, None)
    with pytest.raises(ContractError, match=r"layer 0: no matmul named like mlp.up"):
        tested.graph.tensor_roles(6)
