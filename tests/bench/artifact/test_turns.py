"""The benchmark of second turns, going back and drafts measures an artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.bench.artifact import turns


@pytest.mark.slow
def test_every_figure_is_printed_and_reuse_and_drafts_save_time(
    embedded_artifact: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert turns.main([str(embedded_artifact("fp32-ort")), "--rounds", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    turn = "first token of a second turn, ms,"
    assert found[f"{turn} with reuse"] < found[f"{turn} without reuse"]
    assert found["snapshot, bytes"] > 0
    assert found["decoding of an edited function with drafts, times faster"] > 1
    assert found["decoding of an answer with quotes with drafts, times faster"] > 0.8
    assert found["decoding of a text sampled freely with drafts, times faster"] > 0.5
    assert found["decoding of 8 prompts together, times faster"] > 1
    assert {what.split(",")[0] for what in found} >= {"rewind and a step", "snapshot", "restore"}
