"""Are findings in order, and is a file that is no graph refused?"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from tramontane.graphs.lint.rules import RULES, lint
from tramontane.runtime.errors import ContractError

from .one_layer import DECOMPOSED, GQA, OURS, Ask


def test_graph_of_ours_gets_a_note_at_most(promised: ir.Model, tmp_path: Path) -> None:
    ir.save(promised, tmp_path / "model.onnx")
    assert [finding.rule for finding in lint(tmp_path / "model.onnx")] == ["all-float"]


def test_what_is_gravest_comes_first(promised: ir.Model, tmp_path: Path) -> None:
    ir.save(promised, tmp_path / "model.onnx", external_data="weights", size_threshold_bytes=0)
    (tmp_path / "weights").unlink()
    (tmp_path / "config.json").write_text("{")
    found = lint(tmp_path / "model.onnx")
    assert [finding.severity for finding in found] == ["error", "warning", "note"]


def test_rules_are_named_after_their_functions(ask: Ask) -> None:
    names = [rule.__name__.replace("_", "-") for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(rule.__doc__ for rule in RULES)
    for name in ("logits-of-all", "window-lost"):
        assert name in names


@pytest.mark.parametrize("content", [b"no graph", None], ids=["other bytes", "no file"])
def test_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ContractError, match="model.onnx: (not an ONNX graph|cannot be read)"):
        lint(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "nodes", [GQA, OURS, DECOMPOSED.replace("@", "visible = Cast<to = 9>(i)")]
)
def test_nodes_that_lost_their_inputs_and_attributes_break_no_rule(ask: Ask, nodes: str) -> None:
    def strip(model: ir.Model) -> None:
        for node in model.graph:
            node.attributes.clear()
            node.resize_inputs(0)
        for value in model.graph.inputs:
            value.shape = value.type = None

    odd = {"sliding_window": "8", "model_type": ["mistral"], "layer_types": 3, "text_config": 1}
    ask("window-lost", nodes, change=strip, config=odd, genai={"model": [], "search": None})
