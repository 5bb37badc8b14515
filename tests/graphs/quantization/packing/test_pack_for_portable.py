"""Do standard operators unpack what layers and gathers read, and yield their numbers?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.packing.pack_for_portable import PackForPortable
from tramontane.graphs.quantization.scheme import Scheme

from ..small_graphs import IDS, LINEAR, every_scheme, every_width, packing, rounded

SHARED = """(float[b,t,{K}] x, float[b,t,{K}] z) => (float[b,t,6] sum) <float[6,{K}] w> {{
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
    q = MatMul(z, columns)
    sum = Add(y, q)
}}"""
GATHER = """(int64[{ids}] ids) => (float[{ids},{K}] rows) <float[6,{K}] w> {{
    rows = Gather(w, ids)
}}"""


@every_scheme
@every_width
def test_linear_layer_unpacks_its_weight(
    build: Callable, op_types: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    model = build(LINEAR.format(K=columns), w=normal(6, columns))
    assert packing(PackForPortable, bits, block)(model).modified
    assert op_types(model) == ["DequantizeLinear", "Transpose", "MatMul"]
    found = {v.name: (str(v.dtype), tuple(v.shape.numpy())) for v in model.graph.node(0).inputs}
    blocks = -(-columns // block)
    expected = {
        "w.elements": ("INT8" if bits == 8 else "UINT4", (6, columns)),
        "w.scales": ("FLOAT", (6, blocks)),
    }
    if bits == 4:
        expected["w.zero_point_elements"] = ("UINT4", (6, blocks))
    assert found == expected


@every_scheme
@every_width
def test_gather_unpacks_the_rows_it_gathers(
    build: Callable, op_types: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    model = build(GATHER.format(K=columns, ids="b,t"), w=normal(6, columns))
    assert packing(PackForPortable, bits, block)(model).modified
    types = op_types(model)
    assert types.count("Gather") == (2 if bits == 8 else 3)
    assert types[-1] == "DequantizeLinear"
    gathered = [node.inputs[0] for node in model.graph if node.op_type == "Gather"]
    bytes_of = {v.name: tuple(v.shape.numpy()) for v in gathered}
    codes = {"w.elements": (6, columns)} if bits == 8 else {"w.rows": (6, columns // 2)}
    blocks = -(-columns // block)
    zero_points = {} if bits == 8 else {"w.zero_points": (6, blocks)}
    assert bytes_of == {**codes, "w.scales": (6, blocks), **zero_points}


@every_scheme
@every_width
def test_values_agree_with_the_linear_layer_over_rounded_weights(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    bits: int,
    block: int,
    columns: int,
) -> None:
    text, w, x = LINEAR.format(K=columns), normal(6, columns) + 0.3, normal(2, 3, columns)
    before = evaluate(build(text, w=rounded(w, bits, block)), x=x)
    model = build(text, w=w)
    packing(PackForPortable, bits, block)(model)
    assert_agree(evaluate(model, x=x), before)


@every_scheme
def test_values_agree_where_two_layers_read_one_transpose(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    bits: int,
    block: int,
) -> None:
    w, feeds = normal(6, 172), {"x": normal(2, 3, 172), "z": normal(2, 3, 172)}
    text = SHARED.format(K=172)
    before = evaluate(build(text, w=rounded(w, bits, block)), **feeds)
    model = build(text, w=w)
    packing(PackForPortable, bits, block)(model)
    assert_agree(evaluate(model, **feeds), before)


@every_scheme
@every_width
def test_values_agree_with_the_linear_layer_within_half_a_step_of_each_weight(
    build: Callable, evaluate: Callable, normal: Callable, bits: int, block: int, columns: int
) -> None:
    w, x = normal(6, columns), normal(2, 3, columns)
    model = build(LINEAR.format(K=columns), w=w)
    before = evaluate(model, x=x)["y"]
    packing(PackForPortable, bits, block)(model)
    scales = quantize(w, Scheme(bits=bits, block=block)).scales
    half_steps = np.repeat(scales, block, axis=1)[:, :columns] / 2
    bound = np.abs(x) @ half_steps.T + 1e-4
    assert (np.abs(evaluate(model, x=x)["y"] - before) <= bound).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("ids", [IDS[0], IDS[None]], ids=["one axis", "three axes"])
def test_values_agree_however_many_axes_ids_have(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    bits: int,
    ids: np.ndarray,
) -> None:
    w = normal(6, 172)
    model = build(GATHER.format(K=172, ids=",".join("abt"[: ids.ndim])), w=w)
    packing(PackForPortable, bits, 32)(model)
    assert_agree(evaluate(model, ids=ids), {"rows": rounded(w, bits, 32)[ids]})
