"""The caches of a graph's attentions: whether they evict rows, and the scales of int8 rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

# Places among GroupQueryAttention's inputs, key before value.
_PASTS, _CACHE_SCALES = slice(3, 5), slice(12, 14)
_WITH_BATCH = 4  # dimensions of scales that are given for each channel


def has_windowed_cache(graph: ir.Graph) -> bool:
    """Whether an attention drops rows by itself, so that its cache has a fixed number of them."""
    return any(
        node.op_type == "GroupQueryAttention"
        and node.attributes.get_int("sliding_window_cache", 0) == 1
        for node in graph
    )


def find_cache_scales(graph: ir.Graph) -> dict[str, np.ndarray]:
    """The scales of caches in 8 bits, by the names of the pasts; each broadcasts to (G, C, D)."""
    found = {}
    for node in graph:
        if node.op_type != "GroupQueryAttention":
            continue
        for past, scales in zip(node.inputs[_PASTS], node.inputs[_CACHE_SCALES], strict=False):
            if past is not None and scales is not None and scales.const_value is not None:
                array = np.asarray(scales.const_value.numpy(), np.float32)
                found[str(past.name)] = array[0] if array.ndim == _WITH_BATCH else array
    return found
