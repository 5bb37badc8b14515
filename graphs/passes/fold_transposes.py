"""Store weights as they are multiplied.

Before:  MatMul(x, Transpose(weight))
After:   MatMul(x, weightᵀ)
Legal because transposing moves numbers and changes none. A runtime would do it at each load.
"""

from __future__ import annotations

import onnx_ir as ir

from .. import weights
from ..linear import linears


class FoldTransposes(ir.passes.InPlacePass):
    """Every linear layer that is still in float."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any transpose was folded."""
        folded: dict[ir.Value, ir.Value] = {}  # layers may share a weight
        for layer in linears(model.graph):
            if layer.weight not in folded:
                folded[layer.weight] = weights.transposed(layer.weight)
                model.graph.register_initializer(folded[layer.weight])
            node = ir.node("MatMul", [layer.input, folded[layer.weight]])
            layer.replace_with(model.graph, node)
        return ir.passes.PassResult(model, modified=bool(folded))
