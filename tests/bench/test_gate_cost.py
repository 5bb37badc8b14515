"""Are the counts what the gate feeds, and do projections multiply them?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.bench import gate_cost
from tramontane.bench.gate_cost import Part, Seconds, measured, parts_of, table
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.known_models import GEOMETRIES
from tramontane.runtime.cache import CacheLayout
from tramontane.validate.gate import Gate
from tramontane.validate.graph_under_test import open_graph_under_test
from tramontane.validate.measurement import GateOptions
from tramontane.validate.reference.reference import Reference
from tramontane.validate.run_graph import DriverRunner, GraphRunner

ArtifactOf = Callable[[Path, str], Path]
MISTRAL = [CacheLayout(window=4096, rows=4608)]


def test_a_large_window_shares_what_sequences_begin_with() -> None:
    counts = {one.name: one.tokens for one in parts_of(MISTRAL, positions=32768)}
    assert counts["the reference"] == 5129 + (5129 - 4095) + 128
    assert counts["the recipe's reference, twice"] == 2 * counts["the reference"]
    assert counts["a batch of 2"] == 2 * (4604 + 24)
    assert counts["inner tensors"] == 5129


@pytest.mark.slow
def test_counts_are_what_the_gate_feeds(
    two_layers: Path, artifact_of: ArtifactOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = {"sequences": 0, "graph": 0, "reference": 0}
    feed, run, run_layer = DriverRunner.feed, GraphRunner.run, Reference.run_layer

    def counted_feed(self: DriverRunner, tokens: np.ndarray) -> np.ndarray:
        fed["sequences"] += len(tokens)
        return feed(self, tokens)

    def counted_run(self: GraphRunner, ids: np.ndarray, *args: Any, **named: Any) -> Any:
        fed["graph"] += ids.size
        return run(self, ids, *args, **named)

    def counted_layer(self: Reference, layer: Any, x: Any, **named: Any) -> Any:
        fed["reference"] += len(x)
        return run_layer(self, layer, x, **named)

    monkeypatch.setattr(DriverRunner, "feed", counted_feed)
    monkeypatch.setattr(GraphRunner, "run", counted_run)
    monkeypatch.setattr(Reference, "run_layer", counted_layer)
    checkpoint = Checkpoint.open(two_layers)
    tested = open_graph_under_test(artifact_of(two_layers, "int8-ort"), checkpoint.config)
    assert Gate(tested, checkpoint, GateOptions(store=tmp_path)).measure().passed
    positions = checkpoint.config.max_position_embeddings
    counts = {one.name: one.tokens for one in parts_of(tested.edges, positions=positions)}
    assert fed["sequences"] == counts["sequences"]
    assert fed["graph"] == counts["a batch of 2"] + counts["inner tensors"]
    assert fed["reference"] == 2 * counts["the reference"]  # in each of two layers


@pytest.mark.slow
def test_rates_are_measured_on_a_stand_in(two_layers: Path, artifact_of: ArtifactOf) -> None:
    rates = measured(artifact_of(two_layers, "int8-ort"), two_layers, tokens=64)
    assert rates["PyTorch"].layer > 0
    assert rates["onnxruntime"].layer > 0


def test_a_table_multiplies_tokens_by_layers_and_adds_the_head() -> None:
    config = GEOMETRIES["mistral-7b-v0.1"]
    parts = [Part(name="the reference", runs_in="PyTorch", tokens=6000)]
    lines = table(parts, config, {"PyTorch": Seconds(layer=0.01, head=0.02)})
    assert lines[2] == "| the reference | PyTorch | 6,000 | 34 |"
    assert lines[-1] == "| in all | | 6,000 | 34 |"
    assert table(parts, config, {})[2] == "| the reference | PyTorch | 6,000 |"


def test_an_artifact_without_its_checkpoint_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gate_cost.main(["mistral-7b-v0.1", "--artifact", "a"])
    assert "one is given, expected both or none" in capsys.readouterr().err
