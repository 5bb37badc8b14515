"""Does each target refuse what it has no kernels for, and name what runs instead?"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tramontane.export.cache_choice import CACHES
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe, recipe_names
from tramontane.graphs.targets import all_targets
from tramontane.graphs.targets.all_targets import TARGETS, find_target
from tramontane.runtime.contract import CACHE_DTYPES
from tramontane.runtime.errors import GraphError


@pytest.mark.parametrize("name", TARGETS)
def test_target_is_known_by_its_own_name(name: str) -> None:
    assert find_target(name).name == name


def test_unknown_target_is_refused_by_name() -> None:
    with pytest.raises(
        GraphError, match="--target tpu: unknown; expected one of ort, portable, w"
    ):
        find_target("tpu")


def test_recipes_are_those_that_a_target_has_kernels_for() -> None:
    assert {name: find_target(name).quants() for name in TARGETS} == {
        "ort": recipe_names(),
        "portable": tuple(name for name in recipe_names() if name != "int8-dynamic"),
        "web": ("fp32", "int8", "int8-smooth"),
    }


@pytest.mark.parametrize(
    ("target", "head_dim", "message"),
    [
        ("portable", 64, "--target portable --kv int8: no kernel .*; take --target ort"),
        ("web", 64, "--target web --kv int8: no kernel .*; take --target ort"),
        ("ort", 8, "--kv int8: heads of 8 numbers, expected a multiple of 16"),
    ],
)
def test_cache_that_no_kernel_reads_is_refused(target: str, head_dim: int, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        find_target(target).refuse_int8_cache(head_dim)
    find_target("ort").refuse_int8_cache(64)


def test_only_portable_takes_any_head_size() -> None:
    find_target("portable").refuse_head_size(20, quant="int8", kv="float32")
    for name in ("ort", "web"):
        with pytest.raises(GraphError, match=f"--target {name}: head_dim is 20, .* --target port"):
            find_target(name).refuse_head_size(20, quant="int8", kv="float32")


def test_names_of_targets_and_formats_need_no_package_of_the_export() -> None:
    code = (
        "import sys; from tramontane.graphs.targets import all_targets; "
        "from tramontane.graphs.quantization.recipes.all_recipes import recipe_names; "
        "assert all_targets.TARGETS and recipe_names(); "
        "assert not {'numpy', 'onnx', 'onnx_ir'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_browsers_have_the_kernels_of_float_and_of_what_is_made_for_them() -> None:
    runs = {
        (name, quant)
        for name in TARGETS
        for quant in find_target(name).quants()
        if find_target(name).runs_in_browsers(find_recipe(quant))
    }
    assert runs == {
        ("ort", "fp32"),
        ("portable", "fp32"),
        ("web", "fp32"),
        ("web", "int8"),
        ("web", "int8-smooth"),
    }


def test_no_module_compares_the_name_of_a_target_a_recipe_or_a_cache() -> None:
    root = Path(all_targets.__file__).parents[2]
    names = {*TARGETS, *recipe_names(), *CACHE_DTYPES, *CACHES}
    found = []
    for layer in ("graphs", "export", "validate", "faults", "interop", "bench", "cli"):
        for path in sorted((root / layer).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    parts = {
                        each.value for each in ast.walk(node) if isinstance(each, ast.Constant)
                    }
                    found += [f"{path.name}:{node.lineno}"] if parts & names else []
    assert not found
