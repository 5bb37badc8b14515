"""Is the pass to blame named, and every step on record?"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from tramontane.errors import GraphError
from tramontane.graphs.pipeline import QUANTS, TARGETS, passes, run
from tramontane.runtime.contract import Geometry


class BreakOpset(ir.passes.InPlacePass):
    """A pass that leaves a graph which breaks a rule."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Import a later opset."""
        model.graph.opset_imports[""] = 25
        return ir.passes.PassResult(model, modified=True)


@pytest.mark.parametrize(
    ("target", "quant", "message"),
    [
        ("tpu", "int8", "--target tpu: unknown; expected one of ort, portable"),
        ("ort", "int3", "--quant int3: unknown; expected one of fp32, int8"),
    ],
)
def test_unknown_recipe_is_refused_by_name(target: str, quant: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        passes(target=target, quant=quant)


def test_pass_that_breaks_the_graph_is_named(promised: ir.Model, geometry: Geometry) -> None:
    with pytest.raises(GraphError, match="after pass BreakOpset: opset is 25"):
        run(promised, geometry, [BreakOpset()])


def test_trace_that_is_broken_already_is_named(promised: ir.Model, geometry: Geometry) -> None:
    promised.graph.opset_imports[""] = 25
    with pytest.raises(GraphError, match="after trace: opset is 25"):
        run(promised, geometry, passes(target="ort", quant="fp32"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("quant", QUANTS)
def test_dump_has_one_file_per_pass(
    promised: ir.Model, geometry: Geometry, tmp_path: Path, target: str, quant: str
) -> None:
    recipe = passes(target=target, quant=quant)
    run(promised, geometry, recipe, dump=tmp_path / "dump")
    names = ["trace", *(type(step).__name__ for step in recipe)]
    expected = [f"{number:02}_{name}.txt" for number, name in enumerate(names)]
    assert sorted(path.name for path in (tmp_path / "dump").iterdir()) == expected
    assert "MatMul" in (tmp_path / "dump" / expected[-1]).read_text()


class Stumble(ir.passes.InPlacePass):
    """A pass that fails half way."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fail."""
        raise ValueError("no such node")


def test_pass_that_fails_is_named(promised: ir.Model, geometry: Geometry) -> None:
    with pytest.raises(GraphError, match="pass Stumble failed: no such node"):
        run(promised, geometry, [Stumble()])
