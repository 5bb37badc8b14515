"""Is the rule found by which a kernel rounds?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.graphs.quantization.activation_rounding import STEPS, ByPosition, InBlocks
from tramontane.validate.graph_under_test import GraphUnderTest, open_graph_under_test
from tramontane.validate.probe import matrix_of
from tramontane.validate.reference import kernel_rounding as module
from tramontane.validate.reference.kernel_rounding import KernelRounding, halfway

Artifact = Callable[[str], Path]


@pytest.fixture
def tested(embedded_artifact: Artifact, stdlib_5m: Path) -> GraphUnderTest:
    return open_graph_under_test(embedded_artifact("int4-ort"), Checkpoint.open(stdlib_5m).config)


@pytest.mark.parametrize("nth", range(len(STEPS)))
def test_a_kernel_that_rounds_by_a_rule_is_found_to(
    tested: GraphUnderTest, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    linear = tested.graph.tensor_roles(6).layers[0]["gate"]
    matrix = matrix_of(tested, linear, 256)

    class Kernel:
        def run(self, _: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            (rows,) = feeds.values()
            return [(InBlocks(128, STEPS[nth])(rows[0]) @ matrix.T)[None]]

    monkeypatch.setattr(module, "open_product", lambda *_: Kernel())
    rounding = KernelRounding(tested).of(linear, matrix)
    assert isinstance(rounding, InBlocks)
    rows = halfway(256, 256, block=128)
    np.testing.assert_array_equal(rounding(rows), InBlocks(128, STEPS[nth])(rows))


def test_what_is_known_from_the_graph_is_not_tried(
    embedded_artifact: Artifact, stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "open_product")
    config = Checkpoint.open(stdlib_5m).config
    for recipe, expected in (("fp32-ort", None), ("int8-web", ByPosition(256))):
        other = open_graph_under_test(embedded_artifact(recipe), config)
        linear = other.graph.tensor_roles(6).layers[0]["gate"]
        assert KernelRounding(other).of(linear, np.zeros((0, 256))) == expected


def test_a_probe_tells_the_rules_apart() -> None:
    rows = halfway(8, 200, block=128)
    assert rows.shape == (8, 200)
    rounded = [InBlocks(128, steps)(rows) for steps in STEPS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (rounded[one] != rounded[other]).mean() > 0.01
