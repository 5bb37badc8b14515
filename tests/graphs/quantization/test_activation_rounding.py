"""Do rows come out as onnxruntime's kernels round them?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tramontane.graphs.quantization.activation_rounding import ByPosition, InBlocks

Normal = Callable[..., np.ndarray]


def multiplied(x: np.ndarray, codes: np.ndarray, *, columns: int, level: int) -> np.ndarray:
    """Rows (T, K) through MatMulNBits, whose weights are ``codes - 128``."""
    N, blocks, block = codes.shape
    sizes = {"K": columns, "N": N, "bits": 8, "block_size": block, "accuracy_level": level}
    node = helper.make_node(
        "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **sizes
    )
    scales = np.ones((N, blocks), np.float32)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, N])],
        [
            onnx.numpy_helper.from_array(codes, "codes"),
            onnx.numpy_helper.from_array(scales, "scales"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (33, 192), (300, 256)])
def test_blocks_are_rounded_as_matmulnbits_rounds_them(
    normal: Normal, block: int, rows: int, columns: int
) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 256, (8, -(-columns // block), block), np.uint8)
    weights = codes.reshape(8, -1)[:, :columns].astype(np.float64) - 128
    x = np.float32(normal(rows, columns) * np.exp(normal(columns)))
    found = multiplied(x, codes, columns=columns, level=4)
    expected = InBlocks(block)(x).astype(np.float64) @ weights.T
    size = np.linalg.norm(x, axis=1, keepdims=True) * np.linalg.norm(weights, axis=1)
    assert (np.abs(found - expected) / size).max() < 1e-6
    unrounded = x.astype(np.float64) @ weights.T
    assert (np.abs(found - unrounded) / size).max() > 1e-5  # so the rounding is seen


def test_without_an_accuracy_level_nothing_is_rounded(normal: Normal) -> None:
    codes = np.random.default_rng(0).integers(1, 256, (8, 2, 64), np.uint8)
    weights = codes.reshape(8, -1).astype(np.float64) - 128
    x = np.float32(normal(5, 128))
    found = multiplied(x, codes, columns=128, level=0)
    np.testing.assert_allclose(found, x @ weights.T, rtol=1e-3, atol=1e-3)


def test_rows_of_zeros_stay_zeros() -> None:
    zeros = np.zeros((2, 48), np.float32)
    for rounding in (InBlocks(32), ByPosition(48), ByPosition(24, is_twice=True)):
        np.testing.assert_array_equal(rounding(zeros), zeros)


def test_the_largest_number_of_each_block_is_met_and_no_other_is_half_a_step_off(
    normal: Normal,
) -> None:
    x = np.float32(normal(7, 96))
    for rounding, width in ((InBlocks(32), 32), (ByPosition(48), 48)):
        rounded, cut = rounding(x).reshape(7, -1, width), x.reshape(7, -1, width)
        largest = np.abs(cut).max(axis=-1, keepdims=True)
        assert (np.abs(rounded - cut) <= largest / 254 * 1.001).all()
        np.testing.assert_allclose(np.abs(rounded).max(axis=-1, keepdims=True), largest, rtol=1e-6)
    twice = ByPosition(48, is_twice=True)(x)
    assert np.abs(twice - x).max() < np.abs(ByPosition(48)(x) - x).max() / 100
