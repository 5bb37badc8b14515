"""Has the checkpoint that stands in for Ministral 3 its rope and query scale, and the same weights?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.interop import cases
from tramontane.interop.cases import NEW_TOKENS
from tramontane.interop.runtimes import COLUMNS
from tramontane.interop.scaled_rope import make_ministral3


def test_rope_and_queries_are_scaled_and_weights_are_those_of_the_source(
    stdlib_5m: Path, tmp_path: Path
) -> None:
    made = make_ministral3(stdlib_5m, tmp_path / "made")
    with Checkpoint.open(stdlib_5m) as source, Checkpoint.open(made) as checkpoint:
        config = checkpoint.config
        assert config.architecture == "Ministral3ForCausalLM"
        assert config.query_scale == (0.1, 64)
        assert (config.rope_scaling["rope_type"], config.rope_theta) == ("yarn", 1e4)
        assert checkpoint.parameters == source.parameters
        name = next(iter(source.parameters))
        np.testing.assert_array_equal(checkpoint.read(name), source.read(name))


def test_answers_go_beyond_the_original_length_in_every_runtime_that_runs_it(
    stdlib_5m: Path, tmp_path: Path
) -> None:
    (case,) = (one for one in cases.cases(stdlib_5m, tmp_path) if one.is_ministral3)
    taken = {one.name for one in COLUMNS if one.takes(case)}
    assert {"onnxruntime", "onnxruntime-genai", "transformers.js", "onnxruntime-web"} <= taken
    assert "optimum" not in taken
    assert NEW_TOKENS > 2 * 64
