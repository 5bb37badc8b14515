"""Matmuls that have a linear layer's name are found, with the rounding of their weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.probing.matmuls import fewest_bits, find_matmuls

Build = Callable[..., ir.Model]


@pytest.mark.parametrize(
    ("kernel", "bits", "block"),
    [
        ("com.microsoft.MatMulNBits<bits = 4, block_size = 32, K = 4, N = 4>(x, w, s)", 4, 32),
        ("com.microsoft.MatMulNBits<bits = 8, block_size = 128, K = 4, N = 4>(x, w, s)", 8, 128),
        ("com.microsoft.DynamicQuantizeMatMul(x, w, s)", 8, 4),  # a scale a column
        ("MatMul(x, w)", 32, None),
        ("Gemm(x, w)", 32, None),
    ],
)
def test_bits_and_blocks_are_read_from_the_kernel(
    build: Build, kernel: str, bits: int, block: int | None
) -> None:
    text = f"(float[b,4] x, float[4] s) => (float[b,4] y) <float[4,4] w> {{ y = {kernel} }}"
    model = build(text, w=np.eye(4, dtype=np.float32))
    model.graph[0].name = "/lm_head/MatMul"
    (found,) = find_matmuls(model.graph)
    assert (found.role, found.bits, found.block) == ("head", bits, block)
    assert fewest_bits(model.graph) == bits


def test_codes_that_are_unpacked_and_turned_before_are_seen_through(build: Build) -> None:
    text = """(float[b,4] x) => (float[b,4] y) <int8[4,4] "head.weight.elements", float[4,1] s> {
        numbers = DequantizeLinear<axis = 1, block_size = 4>("head.weight.elements", s)
        turned = Transpose<perm = [1, 0]>(numbers)
        y = MatMul(x, turned)
    }"""
    weights = {"head.weight.elements": np.eye(4, dtype=np.int8), "s": np.ones((4, 1), np.float32)}
    model = build(text, **weights)
    assert fewest_bits(model.graph) == 8


def test_a_graph_without_matmuls_that_are_known_is_in_float(build: Build) -> None:
    text = "(float[b,4] x) => (float[b,4] y) <float[4,4] w> { y = MatMul(x, w) }"
    model = build(text, w=np.eye(4, dtype=np.float32))
    assert list(find_matmuls(model.graph)) == []
    assert fewest_bits(model.graph) == 32
