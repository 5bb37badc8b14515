"""Do onnxruntime's kernels take the place of layers and gathers, and yield their numbers?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs import weights
from tramontane.graphs.operator import schema
from tramontane.graphs.quantization.matrix_schemes import Role
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.packing.pack_for_ort import PackForOrt
from tramontane.graphs.quantization.packing.stored_size import stored_size
from tramontane.graphs.quantization.scheme import Scheme

from ..small_graphs import GATHER, IDS, every_scheme, every_width, packing, rounded

# A matrix that is both embedding and head.
TIED = """(int64[b,t] ids) => (float[b,t,6] y, float[b,t,{K}] rows) <float[6,{K}] w> {{
    rows = Gather(w, ids)
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(rows, columns)
}}"""
LINEAR = """(float[b,t,{K}] x) => (float[b,t,6] z) <float[6,{K}] w> {{
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
    z = Identity(y)
}}"""


def fitted(bits: int, block: int, columns: int) -> int:
    """The block that a matrix gets which is multiplied by."""
    return Scheme(bits=bits, block=block).fitted(columns).block


def half_steps(matrix: np.ndarray, bits: int, block: int) -> np.ndarray:
    """How far each number may lie from its own."""
    scales = quantize(matrix, Scheme(bits=bits, block=block)).scales
    return np.repeat(scales, block, axis=1)[:, : matrix.shape[1]] / 2


def test_a_session_holds_codes_twice_that_are_gathered_and_multiplied() -> None:
    """As the file has them, and as the kernel packs them; each reader alone has one copy."""
    packer = packing(PackForOrt, 8, 32)

    def held(*roles: Role) -> int:
        return stored_size("w", (256, 64), roles, packer).in_memory

    codes = 256 * 64
    scales = held(Role.HEAD) - codes
    assert held(Role.EMBEDDING) == codes + scales // 3
    assert held(Role.EMBEDDING, Role.HEAD) == 2 * codes + scales


@every_scheme
@every_width
def test_linear_layer_becomes_the_kernel(
    build: Callable, op_types: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    asked, block = block, fitted(bits, block, columns)
    model = build(LINEAR.format(K=columns), w=normal(6, columns))
    assert packing(PackForOrt, bits, asked)(model).modified
    assert op_types(model) == ["MatMulNBits", "Identity"]
    node, blocks = model.graph.node(0), -(-columns // block)
    assert node.domain == schema.MICROSOFT
    assert {name: node.attributes.get_int(name) for name in node.attributes} == {
        "K": columns,
        "N": 6,
        "bits": bits,
        "block_size": block,
        "accuracy_level": 4,
    }
    sizes = {v.name: tuple(v.shape.numpy()) for v in node.inputs[1:]}
    expected = {"w.codes": (6, blocks, block * bits // 8), "w.scales": (6, blocks)}
    if bits == 4:
        expected["w.packed_zero_points"] = (6, -(-blocks // 2))
    assert sizes == expected


@every_scheme
@every_width
def test_gather_becomes_the_kernel(
    build: Callable, op_types: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    model = build(GATHER.format(K=columns), w=normal(6, columns))
    assert packing(PackForOrt, bits, block)(model).modified
    assert op_types(model) == ["GatherBlockQuantized"]
    node = model.graph.node(0)
    assert node.domain == schema.MICROSOFT
    assert {name: node.attributes.get_int(name) for name in node.attributes} == {
        "bits": bits,
        "block_size": block,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    names = ["w.rows", "ids", "w.scales", *(["w.packed_zero_points"] if bits == 4 else [])]
    assert [value.name for value in node.inputs] == names


@every_scheme
@every_width
def test_values_agree_with_the_linear_layer_over_rounded_weights_within_rounding_of_activations(
    build: Callable, evaluate: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    asked, block = block, fitted(bits, block, columns)
    w, x = normal(6, columns) + 0.3, normal(3, columns)
    reference = build(LINEAR.format(K=columns), w=rounded(w, bits, block))
    before = evaluate(reference, x=x[None])["z"][0]
    model = build(LINEAR.format(K=columns), w=w)
    packing(PackForOrt, bits, asked)(model)
    error = np.abs(evaluate(model, x=x[None])["z"][0] - before)
    bound = half_steps(x, 8, block) @ np.abs(rounded(w, bits, block)).T + 1e-4
    assert (error <= bound).all()
    assert error.max() < np.abs(before).max() / 50  # the bound above grows with each column


@every_scheme
@every_width
def test_values_agree_with_the_linear_layer_within_both_roundings(
    build: Callable, evaluate: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    asked, block = block, fitted(bits, block, columns)
    w, x = normal(6, columns), normal(3, columns)
    model = build(LINEAR.format(K=columns), w=w)
    before = evaluate(model, x=x[None])["z"][0]
    packing(PackForOrt, bits, asked)(model)
    error = np.abs(evaluate(model, x=x[None])["z"][0] - before)
    from_weights = half_steps(w, bits, block)
    bound = np.abs(x) @ from_weights.T
    bound += half_steps(x, 8, block) @ (np.abs(w) + from_weights).T
    assert (error <= bound + 1e-4).all()


@every_scheme
@pytest.mark.parametrize("columns", [256, 288, 96, 48, 172, 12])
def test_tied_matrix_lies_in_the_file_once_and_its_rows_agree(
    build: Callable,
    evaluate: Callable,
    normal: Callable,
    bits: int,
    block: int,
    columns: int,
) -> None:
    w, block_of_both = normal(6, columns), fitted(bits, block, columns)
    model = build(TIED.format(K=columns), w=w)
    packing(PackForOrt, bits, block)(model)
    read = [value for value in model.graph.initializers.values() if value.uses()]
    stored = {weights.owner(value) for value in read}
    row_bytes = Scheme(bits=bits, block=block_of_both).row_bytes(columns)
    assert sum(map(weights.num_bytes, stored)) == 6 * row_bytes
    found, expected = evaluate(model, ids=IDS), rounded(w, bits, block_of_both)
    np.testing.assert_array_equal(found["rows"], expected[IDS])
    bound = half_steps(expected[IDS[0]], 8, block_of_both) @ np.abs(expected).T + 1e-4
    assert (np.abs(found["y"][0] - expected[IDS[0]] @ expected.T) <= bound).all()


def test_rows_of_filled_blocks_are_cut_and_others_are_not(
    build: Callable, op_types: Callable, normal: Callable
) -> None:
    for columns, has_slice in ((256, False), (576, False), (12, True), (172, True)):
        model = build(TIED.format(K=columns), w=normal(6, columns))
        packing(PackForOrt, 8, 128)(model)
        assert ("Slice" in op_types(model)) == has_slice


@every_scheme
def test_fitted_block_is_the_one_that_takes_the_fewest_bytes(bits: int, block: int) -> None:
    for columns in range(2, 1400, 2):
        scheme = Scheme(bits=bits, block=block).fitted(columns)
        others = [one for one in (16, 32, 64, 128) if one <= block]
        sizes = {one: Scheme(bits=bits, block=one).row_bytes(columns) for one in others}
        assert sizes[scheme.block] == min(sizes.values())
        assert scheme.block == max(one for one in others if sizes[one] == min(sizes.values()))
        if columns % block == 0:
            assert scheme.block == block
