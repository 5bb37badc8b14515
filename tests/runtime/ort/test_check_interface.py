"""What a graph's interface may hold that the manifest does not promise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import onnxruntime as ort
import pytest
from tramontane.runtime import contract
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import Geometry
from tramontane.runtime.errors import ContractError
from tramontane.runtime.ort.check_interface import refuse_broken_promises

GEOMETRY = Geometry(
    num_key_value_heads=1,
    head_dim=2,
    vocab_size=4,
    layers=(CacheLayout(window=8, rows=24),),
    max_positions=16,
)


@pytest.mark.parametrize("name", ["input_ids", "logits", "seq"])
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, name: str) -> None:
    graph = (
        '<ir_version: 10, opset_import: ["":23]> g (float[seq] input_ids) => (float[seq] logits)'
    )
    content = onnx.parser.parse_model(graph + "{ logits = Neg(input_ids) }").SerializeToString()
    damaged = content.replace(name.encode(), b"\xff" * len(name))
    session = ort.InferenceSession(damaged, providers=["CPUExecutionProvider"])
    with pytest.raises(ContractError, match=r"model\.onnx: .* (not UTF-8|missing|float32)"):
        refuse_broken_promises(tmp_path / "model.onnx", GEOMETRY, session)


@pytest.mark.parametrize("kind", ["input", "output"])
def test_a_tensor_that_is_not_promised_is_refused(tmp_path: Path, kind: str) -> None:
    types = {"int64": "tensor(int64)", "float32": "tensor(float)"}
    listed = {
        name: [
            SimpleNamespace(name=each.name, type=types[each.dtype], shape=each.shape)
            for each in promised
        ]
        for name, promised in (
            ("input", contract.inputs(GEOMETRY)),
            ("output", contract.outputs(GEOMETRY)),
        )
    }
    graph = SimpleNamespace(
        get_inputs=lambda: [each for each in listed["input"] if each.name != "num_logits_to_keep"],
        get_overridable_initializers=lambda: [
            each for each in listed["input"] if each.name == "num_logits_to_keep"
        ],
        get_outputs=lambda: listed["output"],
    )
    refuse_broken_promises(tmp_path / "model.onnx", GEOMETRY, graph)
    listed[kind].append(SimpleNamespace(name="more", type="tensor(float)", shape=[1]))
    with pytest.raises(ContractError, match=rf"model\.onnx: {kind} more is not promised"):
        refuse_broken_promises(tmp_path / "model.onnx", GEOMETRY, graph)
