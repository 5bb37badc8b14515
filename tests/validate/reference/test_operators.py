"""The reference's operators: rope forward and back."""

from __future__ import annotations

import numpy as np
import pytest
from tramontane.export.model.rope import make_rope
from tramontane.validate.reference.operators import rotate


@pytest.mark.parametrize("factor", [1.0, 16.0])
def test_rotating_back_undoes_rope_and_its_attention_factor(factor: float) -> None:
    parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": factor}
    parameters["original_max_position_embeddings"] = 16
    rope = make_rope(parameters, head_dim=16, max_positions=64)
    assert (rope.attention_factor == 1) == (factor == 1)
    x = np.random.default_rng(0).standard_normal((2, 64, 16), np.float32)
    rotated = rotate(x, rope.tables(64))
    lengths = np.linalg.norm(rotated, axis=-1) / np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(lengths, rope.attention_factor, rtol=1e-5)
    np.testing.assert_allclose(rotate(rotated, rope.tables(64), back=True), x, atol=1e-5)
