"""Replace onnxruntime's attention kernel by our own.

Before:  com.microsoft.GroupQueryAttention(...)
After:   tramontane.native.GroupQueryAttention(...), same inputs, outputs and attributes
Legal because the kernel computes the same of the same inputs: ``native/source`` says how,
``tests/native`` compares them. Attributes that the graph leaves out are written: the library's
interface knows no defaults.
"""

from __future__ import annotations

import onnx_ir as ir

from ..operator import schema
from ..operator.group_query_attention import EVICTS, ROTATES, WINDOW, is_group_query_attention

_DEFAULTS = {ROTATES: 0, WINDOW: 0, EVICTS: 0}


class UseNativeAttention(ir.passes.InPlacePass):
    """Every GroupQueryAttention."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any node was replaced."""
        found = [
            node
            for node in model.graph
            if is_group_query_attention(node) and node.domain != schema.NATIVE
        ]
        for node in found:
            node.domain = schema.NATIVE
            for name, value in _DEFAULTS.items():
                if name not in node.attributes:
                    node.attributes[name] = ir.AttrInt64(name, value)
        if found:
            model.graph.opset_imports[schema.NATIVE] = schema.NATIVE_VERSION
        return ir.passes.PassResult(model, modified=bool(found))
