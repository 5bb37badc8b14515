"""Are matrices in 2 bits rounded, stored and multiplied as the scheme says, in onnxruntime?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization.codes import dequantize, pack_codes, unpack_codes
from tramontane.graphs.quantization.methods.round_to_nearest import METHOD, quantize
from tramontane.graphs.quantization.packing.pack_for_ort import PackForOrt
from tramontane.graphs.quantization.recipes.read import parse_recipe
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.graphs.targets.all_targets import find_target
from tramontane.graphs.targets.ort import TWO_BIT_BLOCKS
from tramontane.graphs.writing.external_data import initializers_as_read
from tramontane.runtime.errors import GraphError
from tramontane.validate.layer_checks.findings import block_errors

from .small_graphs import GATHER, IDS, LINEAR, packing

Evaluate = Callable[..., dict[str, np.ndarray]]
every_block = pytest.mark.parametrize("block", TWO_BIT_BLOCKS)
every_scales = pytest.mark.parametrize("scales", ["float32", "uint8"])


def test_four_codes_share_a_byte_the_first_in_its_lowest_bits() -> None:
    codes = np.array([1, 2, 3, 0, 2], np.uint8)
    assert pack_codes(codes, bits=2).tolist() == [0b00111001, 0b10]
    assert unpack_codes(np.array([0b00111001, 0b10], np.uint8), bits=2).tolist() == [
        *codes,
        *(0, 0, 0),
    ]


@every_block
@every_scales
def test_part_of_the_range_is_closer_than_all_of_it(
    normal: Callable, block: int, scales: str
) -> None:
    matrix, scheme = normal(20, 256), Scheme(bits=2, block=block, scales=scales)
    found = dequantize(quantize(matrix, scheme), scheme, columns=256)
    assert block_errors(matrix, found, block, row_share=1 / 255).max() <= METHOD.weight_errors[2]
    cut = matrix.reshape(20, -1, block)
    low, high = (end(cut, axis=2, keepdims=True) for end in (np.min, np.max))
    step = (high - low) / 3
    zero = np.rint(-low / step)
    codes = np.clip(np.rint(cut / step) + zero, 0, 3)
    whole = ((codes - zero) * step).reshape(matrix.shape)
    assert np.linalg.norm(found - matrix) < 0.95 * np.linalg.norm(whole - matrix)


@every_block
@every_scales
@pytest.mark.parametrize("columns", [256, 172])
@pytest.mark.parametrize("positions", [1, 5])
def test_products_are_those_of_the_rounded_matrix_and_activations(
    normal: Callable,
    build: Callable,
    evaluate: Evaluate,
    block: int,
    scales: str,
    columns: int,
    positions: int,
) -> None:
    matrix, x = normal(6, columns), normal(positions, columns)
    model = build(LINEAR.format(K=columns), w=matrix)
    packing(PackForOrt, 2, block, scales=scales)(model)
    scheme = Scheme(bits=2, block=block, scales=scales).fitted(columns)
    assert model.graph.node(-1).attributes.get_int("block_size") == scheme.block
    rounded = dequantize(quantize(matrix, scheme), scheme, columns=columns)
    cut = np.pad(x, ((0, 0), (0, -columns % scheme.block))).reshape(positions, -1, scheme.block)
    step = np.abs(cut).max(axis=2, keepdims=True) / 127
    in_bytes = (np.rint(cut / step) * step).reshape(positions, -1)[:, :columns]
    found = evaluate(model, x=x[None])["y"][0]
    # In int8, not by unpacking each weight in each call: then activations would not be rounded.
    np.testing.assert_allclose(found, in_bytes @ rounded.T, rtol=2e-3, atol=2e-3)
    assert np.abs(found - in_bytes @ rounded.T).max() < 0.1 * np.abs(found - x @ rounded.T).max()


@every_block
@every_scales
def test_gathered_rows_and_sizes_are_those_of_the_scheme(
    normal: Callable, build: Callable, evaluate: Evaluate, block: int, scales: str
) -> None:
    matrix, scheme = normal(6, 256), Scheme(bits=2, block=block, scales=scales)
    model = build(GATHER.format(K=256), w=matrix)
    packing(PackForOrt, 2, block, scales=scales)(model)
    stored = sum(map(weights.num_bytes, initializers_as_read(model.graph)))
    assert stored == 6 * scheme.row_bytes(256)
    expected = dequantize(quantize(matrix, scheme), scheme, columns=256)[IDS]
    np.testing.assert_array_equal(evaluate(model, ids=IDS)["rows"], expected)


@pytest.mark.parametrize(
    ("target", "line", "message"),
    [
        ("ort", "bits = 2", "has 2 bits and no block; take one of 32, 64, 128"),
        ("ort", "bits = 2, block = 16", "has 2 bits and blocks of 16; take one of 32, 64, 128"),
        ("portable", "bits = 2, block = 32", "has 2 bits; take one of 4, 8, 32"),
    ],
)
def test_targets_refuse_what_their_kernels_would_unpack_or_lack(
    target: str, line: str, message: str
) -> None:
    recipe = parse_recipe(f'[matrices]\n"*" = {{ {line} }}\n', name="mine")
    with pytest.raises(GraphError, match=rf'mine.toml:2: "\*" {message}'):
        find_target(target).refuse_recipe(recipe)
    taken = parse_recipe('[matrices]\n"*" = { bits = 2, block = 32 }\n', name="mine")
    find_target("ort").refuse_recipe(taken)
