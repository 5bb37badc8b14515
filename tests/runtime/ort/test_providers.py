"""Execution providers are asked for by name; what they leave to the CPU is said."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from tramontane.runtime import Model, Session
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.errors import ContractError
from tramontane.runtime.ort.ort_session import ort
from tramontane.runtime.ort.providers import CPU

AZURE = "AzureExecutionProvider"  # in every CPU wheel; it runs nodes of its own domain alone


def test_a_provider_that_is_not_installed_is_refused_with_those_that_are(folder: Path) -> None:
    for asked in (["TensorrtExecutionProvider"], "TensorrtExecutionProvider", [CPU, "cpu"]):
        with pytest.raises(
            ContractError, match=f"providers has '(Tens.*|cpu)'; expected of .*{CPU}"
        ):
            Model.load(folder, providers=asked)


def test_the_graph_runs_on_the_providers_that_are_asked_for(folder: Path) -> None:
    for asked, expected in ((None, [CPU]), ([CPU], [CPU]), ([AZURE], [AZURE, CPU])):
        model = Model.load(folder, threads=1, providers=asked)
        assert model.graph.get_providers() == expected
        session = Session.load(folder, threads=1, providers=asked)
        assert session.model.graph.get_providers() == expected


@pytest.mark.skipif(AZURE not in ort.get_available_providers(), reason=f"{AZURE} is absent")
def test_what_a_provider_leaves_to_the_cpu_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tramontane.runtime"):
        model = Model.load(folder, threads=1)
        assert not caplog.records
        model = Model.load(folder, threads=1, providers=[AZURE])
    assert f"{AZURE} leaves to the CPU" in caplog.text
    assert "1 GroupQueryAttention" in caplog.text
    nodes = model.placement[CPU]
    graph = Counter(node.op_type for node in onnx.load(folder / MODEL_FILE).graph.node)
    assert nodes["GroupQueryAttention"] == graph["GroupQueryAttention"] == 1
    assert set(model.placement) == {CPU}


def test_the_answer_of_the_cpu_is_the_check(folder: Path) -> None:
    model = Model.load(folder, threads=1, providers=[AZURE])
    tokens = list(range(3, 60))
    assert model.difference_from_cpu(tokens, threads=1) == 0
    session = model.session()
    assert session.tokens == 0

    class Wrong:
        """A graph of a provider that computes something else."""

        def __init__(self, graph: ort.InferenceSession) -> None:
            self.graph = graph

        def __getattr__(self, name: str) -> object:
            return getattr(self.graph, name)

        def run_with_iobinding(self, binding: object, options: object) -> None:
            self.graph.run_with_iobinding(binding, options)
            binding.get_outputs()[-1].numpy()[..., 7] += 0.5  # type: ignore[attr-defined]

    model._graph = Wrong(model.graph)
    assert np.isclose(model.difference_from_cpu(tokens, threads=1), 0.5, atol=1e-4)
