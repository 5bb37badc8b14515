"""Is the matrix that is read of a matmul the one that its kernel multiplies by?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.validate import probe as module
from tramontane.validate.graph_under_test import open_graph_under_test
from tramontane.validate.probe import OnDisk, matrix_of
from tramontane.validate.reference.weights import columns_of

ArtifactOf = Callable[[Path, str], Path]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "is_stored"),
    [("fp32-ort", True), ("int8-ort", True), ("int4-ort", True), ("int8-web", False)],
)
def test_the_stored_matrix_is_the_one_that_the_kernel_multiplies_by(
    two_layers: Path, artifact_of: ArtifactOf, recipe: str, is_stored: bool
) -> None:
    config = Checkpoint.open(two_layers).config
    tested = open_graph_under_test(artifact_of(two_layers, recipe), config)
    roles = tested.graph.tensor_roles(config.num_hidden_layers)
    for linear in [*roles.layers[1].values(), roles.head]:
        columns = columns_of(linear.role, config)
        session = module.open_product(tested, linear)
        measured = module._measured_matrix(session, linear, columns)
        stored = module._stored_matrix(tested, linear, columns)
        assert (stored is not None) == is_stored
        found = matrix_of(tested, linear, columns)
        np.testing.assert_allclose(found, measured, rtol=1e-5, atol=1e-7)
        if stored is None:
            continue
        assert module._multiplies_by(session, linear, stored)
        step = np.abs(stored[0]).max() / 127  # of 8 bits, in one weight
        stored[0, 3] += step
        assert not module._multiplies_by(session, linear, stored)


@pytest.mark.slow
def test_where_the_kernel_multiplies_by_another_matrix_it_is_measured(
    two_layers: Path, artifact_of: ArtifactOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Checkpoint.open(two_layers).config
    tested = open_graph_under_test(artifact_of(two_layers, "int8-ort"), config)
    linear = tested.graph.tensor_roles(config.num_hidden_layers).layers[0]["gate"]
    right = matrix_of(tested, linear, config.hidden_size)
    real = module._stored_matrix
    monkeypatch.setattr(module, "_stored_matrix", lambda *args: 2 * real(*args))
    np.testing.assert_allclose(
        matrix_of(tested, linear, config.hidden_size), right, rtol=1e-5, atol=1e-7
    )


def test_tensors_on_disk_are_appended_and_read(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    tensors = OnDisk(tmp_path, 4)
    for part in (rows[:1], rows[1:]):
        tensors.append("x/y", part)
        tensors.append("z", part[:, :1])
    np.testing.assert_array_equal(tensors["x/y"], rows)
    assert tensors["z"].shape == (4, 1)
    assert list(tensors) == ["x/y", "z"]
