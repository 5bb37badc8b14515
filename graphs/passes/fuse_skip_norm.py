"""Fuse a residual addition into the norm that reads it.

Before:  sum = Add(x, y); normed = RMSNormalization(sum, weight)
After:   normed, _, _, sum = SkipSimplifiedLayerNormalization(x, y, weight)
Legal because the fused node computes both, in that order; x and y have one shape, so nothing is
broadcast, and other readers of the sum get the fused node's fourth output.
Source: onnxruntime, docs/ContribOperators.md, com.microsoft.SkipSimplifiedLayerNormalization.
"""

from __future__ import annotations

import onnx_ir as ir

from ..linear import move_uses
from ..operator import schema

SUM_OUTPUT = 3


class FuseSkipNorm(ir.passes.InPlacePass):
    """Every addition of two equally shaped tensors that an RMSNormalization reads."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any addition was fused."""
        model.graph.opset_imports.setdefault(schema.MICROSOFT, 1)
        fused = 0
        for norm in list(model.graph):
            add = _residual_of(norm)
            if add is None:
                continue
            node = ir.Node(
                schema.MICROSOFT,
                "SkipSimplifiedLayerNormalization",
                [*add.inputs, norm.inputs[1]],
                {"epsilon": ir.AttrFloat32("epsilon", norm.attributes.get_float("epsilon", 1e-5))},
                num_outputs=SUM_OUTPUT + 1,
            )
            model.graph.insert_before(add, node)
            move_uses(norm.outputs[0], node.outputs[0])
            move_uses(add.outputs[0], node.outputs[SUM_OUTPUT])
            model.graph.remove([norm, add], safe=True)
            fused += 1
        return ir.passes.PassResult(model, modified=fused > 0)


def _residual_of(norm: ir.Node) -> ir.Node | None:
    if norm.op_type != "RMSNormalization" or norm.attributes.get_int("axis", -1) != -1:
        return None
    summed = norm.inputs[0]
    add = summed.producer() if summed is not None else None
    if add is None or add.op_type != "Add":
        return None
    x, y = add.inputs
    if x is None or y is None or x.shape is None or x.shape != y.shape or len(x.shape) != 3:
        return None
    return add
