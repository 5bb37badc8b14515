"""How many nodes does a layer have, in the file and once it is loaded?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.ort.ort_session import ort

LAYERS = 6  # of the bundled demo model
# Queries, keys and values in one multiplication, rope inside the attention, additions inside the
# norms. onnxruntime joins the sigmoid and its product while it loads.
LAYER = {
    "MatMulNBits": 5,
    "GroupQueryAttention": 1,
    "SkipSimplifiedLayerNormalization": 2,
    "Sigmoid": 1,
    "Mul": 2,
}
LOADED = {**LAYER, "Sigmoid": 0, "Mul": 1, "QuickGelu": 1}
MOST_AROUND = 14  # nodes that are there once: embedding, lengths, last positions, head
ROPE = 5  # nodes of cosines and sines, which onnxruntime folds while it loads


@pytest.mark.parametrize("recipe", ["int8-ort", "int4-ort", "int8-ort-int8"])
def test_a_layer_has_eleven_nodes_and_ten_once_loaded(
    embedded_artifact: Callable[[str], Path], tmp_path: Path, recipe: str
) -> None:
    path = embedded_artifact(recipe) / MODEL_FILE
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    files = (
        (path, LAYER, MOST_AROUND + ROPE),
        (tmp_path / "loaded.onnx", LOADED, MOST_AROUND),
    )
    for file, layer, around in files:
        nodes = onnx.load(file, load_external_data=False).graph.node
        found = Counter(node.op_type for node in nodes if node.op_type != "Constant")
        of_layers = {kind: count * LAYERS for kind, count in layer.items()}
        assert all(found[kind] - count in (0, 1) for kind, count in of_layers.items()), found
        assert found.total() - sum(of_layers.values()) <= around
