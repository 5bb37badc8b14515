"""Is a new target, or a new quantization method, one new file and one entry in a list?"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.export.known_models import GEOMETRIES
from tramontane.export.options import (
    options_named,
)
from tramontane.export.planning.plan import plan, plan_each
from tramontane.graphs import targets, weights
from tramontane.graphs.pipeline import passes, run
from tramontane.graphs.quantization import methods
from tramontane.graphs.quantization.methods import all_methods
from tramontane.graphs.quantization.recipes import all_recipes
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.targets import all_targets
from tramontane.graphs.targets.all_targets import find_target
from tramontane.graphs.writing.external_data import initializers_as_read
from tramontane.runtime.contract import Geometry
from tramontane.runtime.errors import ConfigError, GraphError
from tramontane.validate.tolerance import tolerance_for

TARGET = '''"""Target ``phone``: as ``portable``, in small files and without 4 bits."""
from .portable import Portable


class Phone(Portable):
    name = "phone"
    max_shard_bytes = 1000

    def lacks_kernels(self, recipe):
        why = "take --quant int8" if recipe.fewest_bits < 8 else None
        return why or super().lacks_kernels(recipe)

    def extra_activation_bytes(self, *, scores_bytes, dequantized_bytes):
        return scores_bytes


TARGET = Phone()
'''
METHOD = '''"""Round down: coarser than to the nearest."""
import numpy as np

from ..codes import Blocks
from .method import Method


class RoundDown(Method):
    weight_errors = {8: 1 / 127}

    def rounder(self, calibration):
        return round_down


def round_down(matrix, scheme, name):
    assert name in ("w", "head"), name
    filled = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % scheme.block)))
    cut = filled.reshape(len(matrix), -1, scheme.block)
    scales = np.maximum(np.abs(cut).max(axis=2) / 127, np.float32(1e-30))
    codes = np.trunc(cut / scales[:, :, None]) + 128
    zero_points = np.full(scales.shape, 128, np.uint8)
    return Blocks(codes.astype(np.uint8), scales, zero_points)


METHOD = RoundDown()
'''

RECIPE = """# Rounded down.
[matrices]
"*" = { bits = 8, method = "round_down" }
"""


@pytest.fixture
def add_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Add a file to a package, for the time of a test."""
    added = []

    def write(package: ModuleType, name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        added.append(f"{package.__name__}.{name}")
        importlib.invalidate_caches()

    yield write
    for name in added:
        sys.modules.pop(name, None)


def test_target_is_a_file_and_an_entry(
    add_module: Callable,
    monkeypatch: pytest.MonkeyPatch,
    promised: ir.Model,
    geometry: Geometry,
) -> None:
    add_module(targets, "phone", TARGET)
    with pytest.raises(GraphError, match="--target phone: unknown"):
        find_target("phone")
    monkeypatch.setattr(all_targets, "TARGETS", (*all_targets.TARGETS, "phone"))

    options = options_named("int8-phone")
    assert (options.quant, options.target) == ("int8", "phone")
    steps = passes(target="phone", quant="int8", block=16)
    portable = passes(target="portable", quant="int8", block=16)
    assert list(map(type, steps)) == list(map(type, portable))
    run(promised, geometry, steps)
    with pytest.raises(GraphError, match="^--target phone --quant int4: take --quant int8$"):
        passes(target="phone", quant="int4")

    config = GEOMETRIES["stdlib-5m"]
    assert list(plan_each(config, target="phone")[0]) == [
        "fp32",
        "int8",
        "int8-smooth",
        "int8-small",
    ]
    ours, theirs = (plan(config, quant="int8", target=t).memory for t in ("phone", "portable"))
    assert ours.resident_weights_bytes == theirs.resident_weights_bytes
    assert ours.activation_bytes < theirs.activation_bytes
    assert find_target("phone").max_shard_bytes == 1000


def test_quantization_method_and_recipe_are_a_file_and_an_entry_each(
    add_module: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    promised: ir.Model,
    geometry: Geometry,
) -> None:
    add_module(methods, "round_down", METHOD)
    with pytest.raises(GraphError, match="--quant int8-down: unknown"):
        find_recipe("int8-down")
    folder = shutil.copytree(all_recipes._FOLDER, tmp_path / "recipes")
    (folder / "int8-down.toml").write_text(RECIPE)
    monkeypatch.setattr(all_recipes, "_FOLDER", folder)
    monkeypatch.setattr(all_recipes, "RECIPES", (*all_recipes.RECIPES, "int8-down"))
    with pytest.raises(ConfigError, match="int8-down.toml:3: .*method = 'round_down', expected"):
        find_recipe("int8-down")
    monkeypatch.setattr(all_methods, "METHODS", (*all_methods.METHODS, "round_down"))

    assert all("int8-down" in find_target(name).quants() for name in all_targets.TARGETS)
    assert options_named("int8-down-web").quant == "int8-down"
    plain = promised.clone()
    run(promised, geometry, passes(target="ort", quant="int8-down", block=16))
    run(plain, geometry, passes(target="ort", quant="int8", block=16))
    found, nearest = (
        {str(value.name): weights.read(value) for value in initializers_as_read(model.graph)}
        for model in (promised, plain)
    )
    assert found.keys() == nearest.keys()
    codes = [name for name in found if name.endswith(("codes", "rows"))]
    assert codes
    for name in codes:
        apart = np.abs(found[name].astype(int) - nearest[name].astype(int))
        assert apart.max() == 1, "down, not to the nearest"

    config = GEOMETRIES["stdlib-5m"]
    memory = plan(config, quant="int8", target="ort").memory
    assert memory.other_quants["int8-down"] == memory.resident_bytes
    entry_bounds = tolerance_for(find_recipe("int8-down").weight_errors, scale=2).weight_error
    assert entry_bounds == pytest.approx({32: 2e-6, 8: 2 / 127})
