"""Give the attention operator a function body of standard operators.

Before:  SlidingWindowAttention(...), a custom operator
After:   the same node, and its definition as a function of the model
Legal because the function is the operator's definition in ONNX's own ops; runtimes inline it.
Source: ONNX IR specification, Functions.
"""

from __future__ import annotations

import onnx_ir as ir

from ..operator import schema
from ..operator.function_body import standard_body


class AttachFunction(ir.passes.InPlacePass):
    """Attach the function to every graph that has the operator and not yet its function."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether a body was attached."""
        name = (schema.DOMAIN, schema.SLIDING_WINDOW_ATTENTION, "")
        is_used = any(node.op_identifier() == name for node in model.graph)
        if not is_used or name in model.functions:
            return ir.passes.PassResult(model, modified=False)
        model.functions[name] = standard_body()
        return ir.passes.PassResult(model, modified=True)
