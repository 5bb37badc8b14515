"""Does ``KV=float16`` halve the cache of the native graph, at a cost that the gate bounds?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import ExportOptions
from tramontane.runtime.contract import NATIVE_MODEL_FILE
from tramontane.runtime.errors import ConfigError, ParityError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.model import Model
from tramontane.runtime.session import Session
from tramontane.validate.run_gate import require_parity

from ..support.once import Once

TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 2048, 100)]
OPTIONS = ExportOptions(quant="fp32", target="ort", kv="float16", native=True)


@pytest.fixture
def artifact(once: Once, library: Path, two_layers: Path) -> Path:
    """An artifact of the tiny model, not proved."""
    return once("native-float16", lambda out: export_checkpoint(two_layers, out, OPTIONS))


@pytest.mark.slow
def test_rows_take_half_the_memory_and_the_manifest_says_so(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert manifest.native is not None
    assert (manifest.geometry.cache_dtype, manifest.native.cache_dtype) == ("float32", "float16")
    with Model.load(artifact) as half, Model.load(artifact, native=False) as whole:
        assert whole.memory == manifest.memory
        saved = whole.memory.cache_bytes_at_most - half.memory.cache_bytes_at_most
        assert 2 * saved == whole.memory.cache_bytes_at_most
        assert whole.memory.resident_bytes - half.memory.resident_bytes == saved
        sizes = []
        for model in (half, whole):
            session = model.session()
            session.prefill(TOKENS)
            sizes.append(sum(rows.nbytes for pair in session.cache() for rows in pair))
    assert 2 * sizes[0] == sizes[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("cuts", [[100], [7, 1, 24, 25, 43], [1] * 100])
def test_logits_are_near_those_of_float32_however_tokens_are_fed(
    artifact: Path, cuts: list[int]
) -> None:
    with Model.load(artifact, native=False) as model:
        expected = model.session().prefill(TOKENS, all_logits=True)
    with Model.load(artifact) as model:
        session, fed = model.session(), iter(TOKENS)
        found = [
            session.prefill([next(fed) for _ in range(size)], all_logits=True, chunk=size)
            for size in cuts
        ]
    difference = np.abs(np.concatenate(found) - expected)
    assert 0 < difference.max() < 2e-3 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("saves_native", [True, False])
def test_a_saved_session_continues_with_either_graph(
    artifact: Path, tmp_path: Path, saves_native: bool
) -> None:
    with Model.load(artifact, native=saves_native) as model:
        session = model.session()
        session.prefill(TOKENS[:60])
        session.save(tmp_path / "state")
        expected = session.prefill(TOKENS[60:], all_logits=True)
    for native in (True, False):
        with Model.load(artifact, native=native) as model:
            again = Session.load_state(tmp_path / "state", model)
            found = again.prefill(TOKENS[60:], all_logits=True)
        most = 0 if native == saves_native else 2e-3 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=most)


@pytest.mark.slow
def test_the_gate_bounds_its_cost_and_finds_numbers_that_half_precision_cannot_hold(
    artifact: Path, two_layers: Path, copied: Callable[[Path], Path]
) -> None:
    spoilt, checkpoint = copied(artifact), Checkpoint.open(two_layers)
    require_parity(spoilt, checkpoint)
    report = json.loads((spoilt / "parity" / "native" / "report.json").read_text())
    distance = report["checks"][0]
    assert distance["bounds"]["mean_kl"] == 1e-4
    assert 1e-12 < distance["figures"]["mean_kl"] < 1e-4
    graph = onnx.load(spoilt / NATIVE_MODEL_FILE, load_external_data=False)
    _let_values_overflow(graph)
    (spoilt / NATIVE_MODEL_FILE).write_bytes(graph.SerializeToString())
    with pytest.raises(ParityError, match="beyond 65504") as refused:
        require_parity(spoilt, checkpoint)
    assert "--kv float32" in str(refused.value)


def _let_values_overflow(model: onnx.ModelProto) -> None:
    """Multiply what the first layer stores by more than half precision holds."""
    node = next(one for one in model.graph.node if one.op_type == "GroupQueryAttention")
    slot = 2 if len(node.input) > 2 and node.input[2] else 0  # values, or all three in one
    factor = numpy_helper.from_array(np.array(1e6, np.float32), "factor")
    model.graph.initializer.append(factor)
    made = onnx.helper.make_node("Mul", [node.input[slot], "factor"], ["overflowing"])
    node.input[slot] = "overflowing"
    model.graph.node.insert(list(model.graph.node).index(node), made)


def test_it_needs_the_graph_of_the_native_library(two_layers: Path, tmp_path: Path) -> None:
    options = ExportOptions(quant="fp32", target="ort", kv="float16")
    with pytest.raises(ConfigError, match="--kv float16: only the native library reads"):
        export_checkpoint(two_layers, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
