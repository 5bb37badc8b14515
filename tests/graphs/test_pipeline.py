"""Is the pass to blame named, and every step on record?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.pipeline import passes, run
from tramontane.graphs.quantization.activation_ranges import Calibration
from tramontane.graphs.quantization.packing.pack_matrices import PackMatrices
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.targets.all_targets import TARGETS, find_target
from tramontane.graphs.writing.external_data import initializers_as_read
from tramontane.runtime.contract import Geometry
from tramontane.runtime.errors import GraphError


class BreakOpset(ir.passes.InPlacePass):
    """A pass that leaves a graph which breaks a rule."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Import a later opset."""
        model.graph.opset_imports[""] = 25
        return ir.passes.PassResult(model, modified=True)


@pytest.mark.parametrize(
    ("target", "quant", "block", "message"),
    [
        ("tpu", "int8", 32, "--target tpu: unknown; expected one of ort, portable, web$"),
        (
            "ort",
            "int3",
            32,
            "--quant int3: unknown; expected one of fp32, int8, int8-smooth, int8-small, int4, int4-small, int4-rtn, int4-rtn-small, int8-dynamic",
        ),
        ("web", "int3", 32, "--quant int3: unknown"),
        (
            "web",
            "int4",
            32,
            "^--target web --quant int4: browsers' WASM has no fast kernel for 4 bits; "
            "take --quant int8, or for WebGPU --target ort --cache growing$",
        ),
        ("portable", "int8-dynamic", 32, "no standard operator scales such .* --target ort$"),
        ("web", "int8-dynamic", 32, "--quant int8 multiplies bytes by bytes there already"),
        ("ort", "int8-dynamic", 32, "--quant int8-dynamic --kv float32: no calibration was given"),
        ("ort", "int4", 31, "--block 31: expected one of 16, 32, 64, 128, 256"),
    ],
)
def test_unknown_recipe_is_refused_by_name(
    target: str, quant: str, block: int, message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        passes(target=target, quant=quant, block=block)


BITS = {
    "fp32": set(),
    "int8": {(8, 16)},
    "int8-smooth": {(8, 16)},
    "int8-small": {(8, 32)},
    "int8-small-ort": {(8, 16), (8, 32)},
    "int4": {(4, 16), (8, 16)},
    # Its own blocks; the head's 16 columns fill none, which ``ort`` stores in smaller ones.
    "int4-small": {(4, 32), (8, 32)},
    "int4-small-ort": {(4, 32), (8, 16)},
    "int4-rtn": {(4, 16), (8, 16)},
    "int4-rtn-small": {(4, 32), (8, 128)},
    "int4-rtn-small-ort": {(4, 32), (8, 16)},
    "int8-dynamic": {(8, 16)},  # of ends alone: ``promised`` has no layers
}
NONE = Calibration(layers=())
RECIPES = [(target, quant) for target in TARGETS for quant in find_target(target).quants()]


def calibration_for(quant: str) -> Calibration | None:
    return NONE if find_recipe(quant).is_calibrated("float32") else None


def test_calibration_that_nothing_reads_is_refused() -> None:
    with pytest.raises(
        GraphError, match="--quant int8 --kv float32: a calibration was given, expected one w"
    ):
        passes(target="ort", quant="int8", calibration=NONE)


@pytest.mark.parametrize(("target", "quant"), RECIPES)
def test_matrices_have_the_bits_and_the_block_that_were_asked_for(
    promised: ir.Model, geometry: Geometry, target: str, quant: str
) -> None:
    bits = BITS.get(f"{quant}-{target}", BITS[quant])
    steps = passes(target=target, quant=quant, block=16, calibration=calibration_for(quant))
    assert any(isinstance(step, PackMatrices) for step in steps) == bool(bits)
    run(promised, geometry, steps)
    packings = [weights.packing(value) for value in initializers_as_read(promised.graph)]
    assert {packing[:2] for packing in packings if packing} == bits


def test_pass_that_breaks_the_graph_is_named(promised: ir.Model, geometry: Geometry) -> None:
    with pytest.raises(GraphError, match="after pass BreakOpset: opset is 25"):
        run(promised, geometry, [BreakOpset()])


def test_trace_that_is_broken_already_is_named(promised: ir.Model, geometry: Geometry) -> None:
    promised.graph.opset_imports[""] = 25
    with pytest.raises(GraphError, match="after trace: opset is 25"):
        run(promised, geometry, passes(target="ort", quant="fp32"))


@pytest.mark.parametrize(("target", "quant"), RECIPES)
def test_dump_has_one_file_per_pass(
    promised: ir.Model, geometry: Geometry, tmp_path: Path, target: str, quant: str
) -> None:
    steps = passes(target=target, quant=quant, calibration=calibration_for(quant))
    run(promised, geometry, steps, dump=tmp_path / "dump")
    names = ["trace", *(type(step).__name__ for step in steps)]
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


def test_matrix_that_cannot_be_packed_is_named_with_its_pass(
    promised: ir.Model, geometry: Geometry
) -> None:
    odd = weights.weight("w", lambda: np.zeros((6, 15), np.float32), shape=(6, 15))
    promised.graph.initializers["w"].const_value = odd.const_value
    message = "pass PackForOrt failed: w: rows of 15 weights do not fill bytes in 4 bits"
    with pytest.raises(GraphError, match=message):
        run(promised, geometry, passes(target="ort", quant="int4-rtn"))
