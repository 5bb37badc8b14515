"""Measures the hardware limits, and counts what a graph needs of them.

A decode step reads every matrix and the cache rows in the window, so it is memory-bound. A token
of prefill multiplies by every matrix but the head, so it is compute-bound. Each limit is measured
with the simplest work of its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from ..graphs.operator.group_query_attention import GROUP_QUERY_ATTENTION, ROPE_TABLES
from ..graphs.probing.graph_file import read_proto
from ..runtime import contract
from ..runtime.contract import Geometry
from ..runtime.ort.ort_session import ort
from .samples import seconds_of_runs

_BUFFER_BYTES = 1 << 29  # far more than the CPU's caches
_RUNS = 5
_ROWS, _SIZE = 256, 4096  # of the multiplication: a prefill's
_LOOKED_UP: dict[str, tuple[int, ...]] = {  # inputs of which a step reads a few rows
    "Gather": (0,),
    "GatherBlockQuantized": (0, 2, 3),
    GROUP_QUERY_ATTENTION: ROPE_TABLES,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Bytes read and multiplications per token."""

    read_bytes: int  # weights that a step of decoding reads
    row_bytes: int  # bytes of one layer's cache per position in the window
    windows: tuple[int | None, ...]  # most positions that each layer reads; None: all
    multiplications: int  # multiply-accumulates of a token of prefill, without the head

    def bytes_at(self, position: int) -> int:
        """Bytes that a step reads at a position."""
        seen = sum(position if W is None else min(position, W) for W in self.windows)
        return self.read_bytes + seen * self.row_bytes


def read_rate(threads: int) -> float:
    """Bytes per second that threads read from memory, one stream each; the best run."""
    count = _BUFFER_BYTES // 4
    whole = np.ones(count, np.float32)
    parts = np.array_split(whole, threads)
    with ThreadPoolExecutor(threads) as pool:
        return whole.nbytes / _best(lambda: list(pool.map(np.max, parts)))


def multiply_rate(threads: int) -> float:
    """Multiply-accumulates per second of onnxruntime's MatMulInteger on int8; the best run."""
    weight = np.random.default_rng(0).integers(-127, 128, (_SIZE, _SIZE), np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "multiply",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [_ROWS, _SIZE])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [_ROWS, _SIZE])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(1).integers(0, 256, (_ROWS, _SIZE), np.uint8)
    return _ROWS * _SIZE * _SIZE / _best(lambda: session.run(None, {"x": x}))


def work_of(path: Path, geometry: Geometry) -> Work:
    """Count bytes and multiplications of a graph, from its nodes and the sizes of its weights.

    Args:
        path: the graph; its external data is not read.
        geometry: of its cache.
    """
    graph = read_proto(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    read: dict[str, int] = {}
    multiplications = 0
    for node in graph.node:
        looked_up = _LOOKED_UP.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name in weights and index not in looked_up:
                read[name] = _num_bytes(weights[name])
        if contract.LOGITS not in node.output:
            multiplications += _multiplications(node, weights)
    return Work(
        read_bytes=sum(read.values()),
        row_bytes=geometry.layer_row_bytes,
        windows=geometry.windows,
        multiplications=multiplications,
    )


def _multiplications(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> int:
    """Multiply-accumulates of one position in one node, from the size of its weight."""
    if node.op_type == "MatMulNBits":
        sizes = {attribute.name: attribute.i for attribute in node.attribute}
        return int(sizes["K"] * sizes["N"])
    if "MatMul" in node.op_type and node.input[1] in weights:
        return int(np.prod(weights[node.input[1]].dims))
    return 0


def _num_bytes(tensor: onnx.TensorProto) -> int:
    is_nibbles = tensor.data_type in (onnx.TensorProto.UINT4, onnx.TensorProto.INT4)
    size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(np.prod(tensor.dims)) * size // (2 if is_nibbles else 1)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    return min(seconds_of_runs(work, runs=_RUNS))
