"""Whether this processor multiplies int8 by int8 exactly.

x86 with AVX2 and without VNNI adds two products in 16 bits, and what does not fit becomes the
largest number that does: in onnxruntime's kernels, unless the session asks for slower ones.
Source: onnxruntime, onnxruntime_session_options_config_keys.h, ``session.x64quantprecision``.

A session is asked only for graphs that multiply int8 by int8. In others onnxruntime would rewrite
int8 weights of DequantizeLinear as uint8 with one zero point, which blocks of weights cannot have:
such a graph loads and does not run.
"""

from __future__ import annotations

import functools

import numpy as np

# y = MatMulInteger(x, w): x (1, 4) uint8, w (4, 1) int8, all of it 127; opset 10.
PRODUCT = (
    b'\x08\x08:Z\n\x1a\n\x01x\n\x01w\x12\x01y"\rMatMulInteger:\x00\x12\x01p'
    b"*\x0f\x08\x04\x08\x01\x10\x03B\x01wJ\x04\x7f\x7f\x7f\x7f"
    b"Z\x13\n\x01x\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08\x04"
    b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\n"
)

EXACT_INT8 = ("session.x64quantprecision", "1")  # an entry of a session's configuration
_INT8_MATMULS = (b"MatMulInteger", b"DynamicQuantizeMatMul")  # MatMulIntegerToFloat too


def multiplies_int8(graph: bytes) -> bool:
    """Whether a serialized graph has an operator that multiplies int8 by int8."""
    return any(name in graph for name in _INT8_MATMULS)


@functools.cache
def saturates() -> bool:
    """Whether the largest products saturate; found by trying, in milliseconds."""
    import onnxruntime as ort  # here, since a card is rendered without it

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(PRODUCT, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, 4), 255, np.uint8)})
    return int(found.item()) != 4 * 255 * 127
