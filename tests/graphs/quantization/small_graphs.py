"""Graphs of a matrix and its readers, and one scheme for all: what the tests of packers share."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pytest
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.matrix_schemes import MatrixSchemes
from tramontane.graphs.quantization.methods.round_to_nearest import METHOD, quantize
from tramontane.graphs.quantization.packing.pack_matrices import PackMatrices
from tramontane.graphs.quantization.recipes.recipe import Recipe, Rule
from tramontane.graphs.quantization.scheme import Scheme

Packer = TypeVar("Packer", bound=PackMatrices)

ROUNDER = METHOD.rounder(None)
LINEAR = """(float[b,t,{K}] x) => (float[b,t,6] y) <float[6,{K}] w> {{
    columns = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, columns)
}}"""
TWO_READERS = """(float[b,t,{K}] x) => (float[b,t,6] y) <float[6,{K}] w, float[6,{K}] v> {{
    columns = Transpose<perm = [1, 0]>(w)
    others = Transpose<perm = [1, 0]>(v)
    first = MatMul(x, columns)
    second = MatMul(x, others)
    y = Add(first, second)
}}"""
GATHER = """(int64[b,t] ids) => (float[b,t,{K}] rows) <float[6,{K}] w> {{
    rows = Gather(w, ids)
}}"""
# The gate is all ones, so that x is what is multiplied: what counts is the product before it.
DOWN = """(float[b,t,{K}] x) => (float[b,t,6] y) <float[6,{K}] w, float[1] gate> {{
    columns = Transpose<perm = [1, 0]>(w)
    gated = Mul(x, gate)
    product = MatMul(gated, columns)
    y = Add(product, product)
}}"""
IDS = np.array([[0, 5, 3], [5, 1, 2]])
ONE = np.ones(1, np.float32)

every_scheme = pytest.mark.parametrize(
    ("bits", "block"), [(8, 128), (8, 32), (4, 128), (4, 32), (4, 16)]
)
every_width = pytest.mark.parametrize("columns", [256, 172, 12])


def packing(packer: type[Packer], bits: int, block: int, *, scales: str = "float32") -> Packer:
    """The pass, with one scheme for every matrix."""
    recipe = Recipe(name="test", rules=(Rule(pattern="*", bits=bits, scales=scales),))
    return packer(MatrixSchemes(recipe, block=block))


def rounded(matrix: np.ndarray, bits: int, block: int) -> np.ndarray:
    """What the codes of a matrix stand for."""
    scheme = Scheme(bits=bits, block=block)
    return dequantize(quantize(matrix, scheme), scheme, columns=matrix.shape[1])
