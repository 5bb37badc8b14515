"""Are rope's tables computed from frequencies, as the reference has them, while a graph loads?"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from tramontane.export.model.rope import Rope, make_rope
from tramontane.export.trace.rope_nodes import compute_rope_tables
from tramontane.graphs.operator.schema import ROPE_FREQUENCIES, ROPE_TABLES
from tramontane.runtime.errors import TraceError

POSITIONS = 3000


def graph_of(rope: Rope, *, names: tuple[str, ...] = ROPE_TABLES) -> ir.Model:
    """Rows of both tables, looked up."""
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 23]>
        g (int64[n] ids) => (float[n,4] cos, float[n,4] sin)
        <float[1,4] cos_cache = {0, 0, 0, 0}, float[1,4] sin_cache = {0, 0, 0, 0}>
        { cos = Gather(cos_cache, ids)  sin = Gather(sin_cache, ids) }""")
    for name in set(ROPE_TABLES) - set(names):
        model.graph.initializers.pop(name)
    for name in names:
        model.graph.initializers[name].shape = ir.Shape((POSITIONS, 4))
    compute_rope_tables(model.graph, rope, num_positions=POSITIONS)
    return model


def rope(**changes: Any) -> Rope:
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    made = make_rope({"rope_theta": 1e4, **scaled}, head_dim=8, max_positions=POSITIONS)
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_rows_are_those_of_the_reference(factor: float) -> None:
    asked = rope(attention_factor=factor)
    session = ort.InferenceSession(ir.to_proto(graph_of(asked)).SerializeToString())
    ids = np.array([0, 1, 63, 64, 1500, POSITIONS - 1])
    expected = asked.tables_at(torch.from_numpy(ids).float())
    for found, table in zip(session.run(None, {"ids": ids}), expected, strict=True):
        np.testing.assert_allclose(found, table.numpy(), rtol=0, atol=2.5e-7)


def test_graph_holds_frequencies_and_no_table() -> None:
    model = graph_of(rope())
    held = [one for one in model.graph.initializers.values() if one.dtype == ir.DataType.FLOAT]
    assert [one.name for one in held] == [ROPE_FREQUENCIES]
    assert ir.to_proto(model).ByteSize() < 2000


def test_onnxruntime_computes_tables_once_while_it_loads(tmp_path: Any) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(ir.to_proto(graph_of(rope())).SerializeToString(), options)
    loaded = ir.load(tmp_path / "loaded.onnx")
    assert {node.op_type for node in loaded.graph} == {"Gather"}


def test_missing_table_is_named() -> None:
    with pytest.raises(TraceError, match="sin_cache: is not in the traced graph, expected rope"):
        graph_of(rope(), names=("cos_cache",))
