"""Scales that are stored as bytes: what is rounded to them, what kernels make of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.methods.round_to_nearest import METHOD, quantize
from tramontane.graphs.quantization.packing.pack_for_ort import PackForOrt
from tramontane.graphs.quantization.packing.pack_for_portable import PackForPortable
from tramontane.graphs.quantization.packing.pack_matrices import PackMatrices
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.quantization.recipes.recipe import Recipe, Rule
from tramontane.graphs.quantization.scales_in_bytes import LARGEST, bytes_of, factors_of
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.graphs.targets.all_targets import find_target
from tramontane.graphs.writing.external_data import initializers_as_read
from tramontane.runtime.errors import GraphError
from tramontane.validate.layer_checks.findings import block_errors

from .small_graphs import GATHER, IDS, LINEAR, packing

Evaluate = Callable[..., dict[str, np.ndarray]]

every_bits = pytest.mark.parametrize("bits", [4, 8])
every_width = pytest.mark.parametrize("columns", [256, 172])
every_pass = pytest.mark.parametrize("packs", [PackForOrt, PackForPortable])


def small(bits: int, block: int = 32) -> Scheme:
    return Scheme(bits=bits, block=block, scales="uint8")


def uneven(normal: Callable, rows: int, columns: int) -> np.ndarray:
    """A matrix whose blocks and rows are of very different sizes."""
    sizes = np.logspace(-3, 1, columns, dtype=np.float32) * np.logspace(-2, 2, rows)[:, None]
    return np.asarray(normal(rows, columns) * sizes, np.float32)


@every_bits
@every_width
def test_no_weight_is_off_by_more_than_half_a_step_of_the_rounded_scale(
    normal: Callable, bits: int, columns: int
) -> None:
    matrix, scheme = uneven(normal, 20, columns), small(bits)
    blocks = quantize(matrix, scheme)
    exact = bytes_of(blocks.scales).astype(np.float32) * factors_of(blocks.scales)
    np.testing.assert_array_equal(exact.astype(np.float32), blocks.scales)
    found = dequantize(blocks, scheme, columns=columns)
    errors = block_errors(matrix, found, 32, row_share=1 / LARGEST)
    assert errors.max() <= METHOD.weight_errors[bits]
    plain = dequantize(quantize(matrix, Scheme(bits=bits, block=32)), scheme, columns=columns)
    ours, theirs = (np.linalg.norm(each - matrix, axis=1) for each in (found, plain))
    assert np.mean(ours / theirs) < 1.03


@every_pass
@every_bits
@every_width
def test_products_are_those_of_the_rounded_matrix(
    normal: Callable,
    build: Callable,
    evaluate: Evaluate,
    packs: type[PackMatrices],
    bits: int,
    columns: int,
) -> None:
    matrix = normal(6, columns)
    model = build(LINEAR.format(K=columns), w=matrix)
    packing(packs, bits, block=32, scales="uint8")(model)
    scheme = small(bits).fitted(columns) if packs is PackForOrt else small(bits)
    expected = dequantize(quantize(matrix, scheme), scheme, columns=columns)
    x = np.eye(columns, dtype=np.float32)[None]
    np.testing.assert_allclose(evaluate(model, x=x)["y"][0].T, expected, rtol=1e-5, atol=1e-6)


@every_pass
@every_bits
def test_gathered_rows_are_those_of_the_rounded_matrix(
    normal: Callable,
    build: Callable,
    evaluate: Evaluate,
    packs: type[PackMatrices],
    bits: int,
) -> None:
    matrix = normal(6, 256)
    model = build(GATHER.format(K=256), w=matrix)
    packing(packs, bits, block=32, scales="uint8")(model)
    expected = dequantize(quantize(matrix, small(bits)), small(bits), columns=256)[IDS]
    np.testing.assert_array_equal(evaluate(model, ids=IDS)["rows"], expected)


@every_bits
def test_what_is_stored_is_what_the_scheme_says(
    normal: Callable, build: Callable, bits: int
) -> None:
    model = build(LINEAR.format(K=256), w=normal(6, 256))
    packing(PackForOrt, bits, block=32, scales="uint8")(model)
    stored = initializers_as_read(model.graph)
    assert sum(map(weights.num_bytes, stored)) == 6 * small(bits).row_bytes(256)
    assert {value.dtype.name for value in stored if value.dtype} == {"UINT8", "BFLOAT16"}


def test_targets_and_recipes_without_such_scales_refuse_them() -> None:
    rules = (Rule(pattern="*", bits=8, scales="uint8", line=3),)
    recipe = Recipe(name="mine", rules=rules, path="mine.toml")
    with pytest.raises(GraphError, match=r'mine.toml:3: "\*" has uint8 scales; take float32'):
        find_target("web").refuse_recipe(recipe)
    with pytest.raises(GraphError, match="--quant int8-small: .* take --quant int8-smooth$"):
        find_target("web").refuse_recipe(find_recipe("int8-small"))
    find_target("ort").refuse_recipe(recipe)
    find_target("portable").refuse_recipe(recipe)
    dynamic = Recipe(name="mine", rules=recipe.rules, activations="per_position")
    with pytest.raises(
        GraphError, match='uint8 scales, expected float32 where activations = "per'
    ):
        dynamic.refuse_unfit(["layers.0.mlp.up.weight"])
