"""Hold keys and values in 8 bits, with one scale for each channel.

Before:  GroupQueryAttention(..., past_key: float, past_value: float, ...)
After:   GroupQueryAttention(..., past_key: int8, past_value: int8, ..., key scales, value scales)
Legal within the rounding of keys and values, half a step of their channel's scale, where they are
no larger than what was calibrated and a fifth; beyond that they are clipped. Queries stay float.
Each channel has a scale of its own: in stories15M one for a layer made mean KL 3 times larger on
text, and 11 times on random tokens.
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.GroupQueryAttention.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...runtime import contract
from ...runtime.errors import GraphError
from .. import weights
from ..operator.group_query_attention import (
    CACHE_BITS,
    CACHE_SCALES,
    PASTS,
    PRESENTS,
    QUANTIZED_CACHE_KINDS,
    Slot,
    is_group_query_attention,
)
from .activation_ranges import Calibration, LayerMaxima

SCALES_NAME = "cache_scales"  # how the names of the scales begin

_LARGEST = 127
# Room above what calibration saw. Measured as mean KL on other text of the model's kind: clipping
# costs more than coarser steps up to here (stories15M: 1.3e-3 without, 5.0e-4 with it).
_HEADROOM = 1.2
_SMALLEST = 1e-6  # of a channel that is always 0: a scale of 0 would divide by it
_KINDS = ("key", "value")


def scales_of(maxima: np.ndarray) -> np.ndarray:
    """Scales (1, G, 1, D) float32 for channels of these largest magnitudes (G, D)."""
    largest = np.maximum(maxima * np.float32(_HEADROOM), np.float32(_SMALLEST))
    return np.asarray((largest / _LARGEST)[None, :, None, :], np.float32)


class QuantizeCache(ir.passes.InPlacePass):
    """Every GroupQueryAttention whose past is a float input of the graph."""

    def __init__(self, calibration: Calibration) -> None:
        """Take the channels' largest magnitudes, layer by layer."""
        super().__init__()
        self._maxima = {
            contract.past(number, "key"): (number, layer)
            for number, layer in enumerate(calibration.layers)
        }

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any cache was quantized."""
        found = [node for node in model.graph if _reads_float_cache(node)]
        for node in found:
            past = node.inputs[Slot.PAST_KEY]
            name = "" if past is None else str(past.name)
            if name not in self._maxima:
                raise GraphError(
                    f"{name}: no layer of that name was calibrated, expected one of "
                    f"{len(self._maxima)}; calibrate the checkpoint that is exported"
                )
            _quantize(model.graph, node, *self._maxima[name])
        return ir.passes.PassResult(model, modified=bool(found))


def _reads_float_cache(node: ir.Node) -> bool:
    if not is_group_query_attention(node):
        return False
    pasts = [node.inputs[place] for place in PASTS]
    return all(
        past is not None and past.is_graph_input() and past.dtype == ir.DataType.FLOAT
        for past in pasts
    )


def _quantize(graph: ir.Graph, node: ir.Node, number: int, maxima: LayerMaxima) -> None:
    values: Sequence[np.ndarray] = (maxima.keys, maxima.values)
    node.resize_inputs(max(len(node.inputs), CACHE_SCALES[-1] + 1))
    for kind, largest, past, place, present in zip(
        _KINDS, values, PASTS, CACHE_SCALES, node.outputs[PRESENTS], strict=True
    ):
        for cache in (node.inputs[past], present):
            assert cache is not None, "the pasts are float inputs"
            cache.dtype = ir.DataType.INT8
        scales = _initializer(f"{SCALES_NAME}.{number}.{kind}", scales_of(largest))
        graph.register_initializer(scales)
        node.replace_input_with(place, scales)
    for name, kind in QUANTIZED_CACHE_KINDS.items():
        node.attributes[name] = ir.AttrString(name, kind)
    node.attributes[CACHE_BITS] = ir.AttrInt64(CACHE_BITS, 8)


def _initializer(name: str, scales: np.ndarray) -> ir.Value:
    return weights.weight(name, lambda: scales, shape=scales.shape)
