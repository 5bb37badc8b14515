"""onnxruntime's GroupQueryAttention: its inputs in order, its attributes, the heads it takes.

Source: onnxruntime, docs/ContribOperators.md, com.microsoft.GroupQueryAttention; the head sizes
were found by trying onnxruntime 1.32 on the processor.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from .schema import MICROSOFT, NATIVE

if TYPE_CHECKING:
    import onnx_ir as ir

GROUP_QUERY_ATTENTION = "GroupQueryAttention"
Input = TypeVar("Input")


class Slot(enum.IntEnum):
    """The place of each input."""

    QUERY = 0  # or query, key and value in one; then the two behind it are left out
    KEY = 1
    VALUE = 2
    PAST_KEY = 3
    PAST_VALUE = 4
    SEQLENS_K = 5  # index of each sequence's last token
    TOTAL_SEQUENCE_LENGTH = 6
    COS_CACHE = 7
    SIN_CACHE = 8
    POSITION_IDS = 9
    ATTENTION_BIAS = 10
    HEAD_SINK = 11
    K_SCALE = 12
    V_SCALE = 13
    ATTENTION_MASK = 14  # of our own kernel alone: how many new positions are padding


PROJECTIONS = (Slot.QUERY, Slot.KEY, Slot.VALUE)
PASTS = (Slot.PAST_KEY, Slot.PAST_VALUE)
ROPE_TABLES = (Slot.COS_CACHE, Slot.SIN_CACHE)
CACHE_SCALES = (Slot.K_SCALE, Slot.V_SCALE)  # of an int8 cache, key before value as in PASTS
PRESENTS = slice(1, 3)  # among the outputs: key, value

# Attributes.
NUM_HEADS, NUM_KV_HEADS = "num_heads", "kv_num_heads"
ROTATES = "do_rotary"
WINDOW = "local_window_size"  # keys a query sees, its own included
EVICTS = "sliding_window_cache"  # 1: the cache has a fixed number of rows
# Of an int8 cache; the kernel wants both scales of one kind.
QUANTIZED_CACHE_KINDS = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
CACHE_BITS = "kv_cache_bit_width"

# Head sizes are multiples of these: of any cache, of one with rope inside, of one in 8 bits.
HEAD_MULTIPLE = 8
ROTARY_HEAD_MULTIPLE = 16
INT8_CACHE_HEAD_MULTIPLE = 16


def is_group_query_attention(node: ir.Node) -> bool:
    """Whether a node is the kernel, onnxruntime's or our own of the same interface."""
    return node.domain in (MICROSOFT, NATIVE) and node.op_type == GROUP_QUERY_ATTENTION


def in_order(inputs: Mapping[Slot, Input]) -> list[Input | None]:
    """The inputs of a node, up to the last that is given."""
    return [inputs.get(place) for place in list(Slot)[: max(inputs) + 1]]


def slot(node: ir.Node, place: Slot) -> ir.Value | None:
    """An input of a node of the kernel; None where it is left out."""
    return node.inputs[place] if place < len(node.inputs) else None
