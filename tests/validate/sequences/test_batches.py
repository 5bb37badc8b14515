"""Are batches of prompts that take several runs computed as each sequence alone is?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import ExportOptions
from tramontane.validate.gate import Gate
from tramontane.validate.graph_under_test import open_graph_under_test
from tramontane.validate.measurement import GateOptions
from tramontane.validate.sequences import batches

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("target", "cache", "expected"),
    [
        # Length, padding and side of the first call, by sequence.
        ("ort", "windowed", [(5, 0, False)] * 2),
        (
            "ort",
            "growing",
            [(5, 0, False), (4, 1, False), (5, 0, True), (4, 1, True), *[(5, 0, False)] * 2],
        ),
        ("portable", "windowed", [(5, 0, False), (1, 4, False), (5, 0, True), (1, 4, True)]),
    ],
)
def test_a_prompt_of_several_runs_gives_the_logits_of_each_sequence_alone(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    cache: str,
    expected: list[tuple[int, int, bool]],
) -> None:
    monkeypatch.setattr(batches, "_ROWS_AT_ONCE", 5)
    model, out = tiny_checkpoint(), tmp_path / "artifact"
    export_checkpoint(model, out, ExportOptions(quant="fp32", target=target, cache=cache))
    with Checkpoint.open(model) as checkpoint:
        tested = open_graph_under_test(out, checkpoint.config)
        gate = Gate(tested, checkpoint, GateOptions(store=tmp_path / "store"))
        random = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, (2, 40))
        runs = gate.reference.runs(list(random))
        rows = list(batches.feed_batches(tested, runs))
    found = [(row.length, row.padding, row.pads_left) for row in rows]
    assert found == expected
    for row, run in zip(rows, runs * len(rows), strict=False):
        np.testing.assert_allclose(row.logits, run.logits[: len(row.logits)], atol=1e-4)
    window = tested.edges[-1].window
    assert window is not None
    assert max(len(row.logits) for row in rows) > window
