"""Store weights as they are multiplied.

Before:  MatMul(x, Transpose(weight)) and, of the same weight, Gather(weight, ids)
After:   MatMul(x, weightᵀ) and Transpose(Gather(weightᵀ, ids, axis=1))
Legal because transposing moves numbers and changes none. A runtime would do it at each load. The
gather of a tied matrix reads columns, so that the file holds it once.
"""

from __future__ import annotations

import onnx_ir as ir

from .. import weights
from ..linear import gathers, linears, rank_of, replace_node


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
        for gather in gathers(model.graph):
            table, ids = gather.inputs
            if table in folded:
                columns = ir.node("Gather", [folded[table], ids], {"axis": 1})
                perm = [*range(1, 1 + rank_of(ids)), 0]
                rows = ir.node("Transpose", columns.outputs, {"perm": perm})
                replace_node(model.graph, gather, [columns, rows], rows.outputs)
        return ir.passes.PassResult(model, modified=bool(folded))
