"""The caches of a graph's attentions: whether they evict rows, and how rows are rounded."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...runtime import contract
from ..operator.group_query_attention import (
    CACHE_SCALES,
    EVICTS,
    PASTS,
    is_group_query_attention,
    slot,
)
from ..operator.schema import MICROSOFT

_WITH_BATCH = 4  # dimensions of scales that are given for each channel


def has_windowed_cache(graph: ir.Graph) -> bool:
    """Whether an attention drops rows by itself, so that its cache has a fixed number of them."""
    return any(
        is_group_query_attention(node) and node.attributes.get_int(EVICTS, 0) == 1
        for node in graph
    )


def appends_to_one_sequence(graph: ir.Graph) -> bool:
    """Whether an attention takes several tokens after others only where the batch is one sequence.

    Source: onnxruntime 1.32, GroupQueryAttention on the processor: "batch_size must be 1 when
    sequence_length > 1 and past context is given". Our own kernel has no such rule.
    """
    return any(is_group_query_attention(node) and node.domain == MICROSOFT for node in graph)


def holds_cache_in_half(graph: ir.Graph) -> bool:
    """Whether keys and values are in half precision."""
    first = contract.past(0, "key")
    return any(one.name == first and one.dtype == ir.DataType.FLOAT16 for one in graph.inputs)


def find_cache_scales(graph: ir.Graph) -> dict[str, np.ndarray]:
    """The scales of caches in 8 bits, by the names of the pasts; each broadcasts to (G, C, D)."""
    found = {}
    for node in graph:
        if not is_group_query_attention(node):
            continue
        for past_at, scales_at in zip(PASTS, CACHE_SCALES, strict=True):
            past, scales = slot(node, past_at), slot(node, scales_at)
            if past is not None and scales is not None and scales.const_value is not None:
                array = np.asarray(scales.const_value.numpy(), np.float32)
                found[str(past.name)] = array[0] if array.ndim == _WITH_BATCH else array
    return found
