"""Replace onnxruntime's attention kernel by our own.

Before:  com.microsoft.GroupQueryAttention(...)
After:   tramontane.native.GroupQueryAttention(..., attention_mask), the other inputs, outputs and
         attributes the same; pasts and presents in half precision where that is asked for
Legal because the kernel computes the same of the same inputs: ``native/source`` says how,
``tests/native`` compares them. Attributes that the graph leaves out are written: the library's
interface knows no defaults. Of the mask the kernel reads how many of the columns of the new
positions are 0 before the first 1: so sequences of one batch may get different numbers of new
tokens in any call. Where none is, it computes what it would without. In half precision new keys
and values are rounded to the nearest, and calls read the rounded ones: 2^-11 of each, where they
are at most 65504. The parity check finds larger ones.
"""

from __future__ import annotations

import onnx_ir as ir

from ...runtime import contract
from ..operator import schema
from ..operator.group_query_attention import (
    EVICTS,
    PASTS,
    PRESENTS,
    ROTATES,
    WINDOW,
    Slot,
    is_group_query_attention,
)

_DEFAULTS = {ROTATES: 0, WINDOW: 0, EVICTS: 0}


class UseNativeAttention(ir.passes.InPlacePass):
    """Every GroupQueryAttention."""

    def __init__(self, *, in_half: bool = False) -> None:
        """``in_half``: hold keys and values in half precision."""
        super().__init__()
        self._in_half = in_half

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any node was replaced."""
        found = [
            node
            for node in model.graph
            if is_group_query_attention(node) and node.domain != schema.NATIVE
        ]
        for node in found:
            node.domain = schema.NATIVE
            for name, number in _DEFAULTS.items():
                if name not in node.attributes:
                    node.attributes[name] = ir.AttrInt64(name, number)
            mask = next(
                (one for one in model.graph.inputs if one.name == contract.ATTENTION_MASK), None
            )
            if mask is not None:
                node.resize_inputs(Slot.ATTENTION_MASK + 1)
                node.replace_input_with(Slot.ATTENTION_MASK, mask)
            if self._in_half:
                for value in (*(node.inputs[place] for place in PASTS), *node.outputs[PRESENTS]):
                    assert value is not None, "every attention has a cache"
                    value.dtype = ir.DataType.FLOAT16
        if found:
            model.graph.opset_imports[schema.NATIVE] = schema.NATIVE_VERSION
        return ir.passes.PassResult(model, modified=bool(found))
