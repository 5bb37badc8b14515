"""Fuse the root-mean-square norm into one node.

Before:  Mul(weight, Mul(x, Reciprocal(Sqrt(Add(ReduceMean(Pow(x, 2), -1), epsilon)))))
After:   RMSNormalization(x, weight)
Legal because that is the operator's definition, term by term, with the last axis alone.
Source: ONNX operator RMSNormalization, opset 23.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewritePass, RewriteRuleClassBase

from .weights import read


class FuseRmsNorm(RewritePass):
    """Every norm over the last axis, whatever its epsilon."""

    def __init__(self) -> None:
        super().__init__([_RmsNorm.rule()])


class _RmsNorm(RewriteRuleClassBase):
    def pattern(self, op, x, weight, exponent, axes, epsilon):
        mean_square = op.ReduceMean(op.Pow(x, exponent), axes, keepdims=1)
        return op.Mul(weight, op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean_square, epsilon)))))

    def check(self, context, weight, exponent, axes, epsilon, **_):
        result = MatchResult()
        if not _is_constant(exponent, 2.0):
            return result.fail("the exponent is not 2")
        if not _is_constant(axes, -1):
            return result.fail("the mean is not over the last axis alone")
        if epsilon.const_value is None or epsilon.const_value.size != 1:
            return result.fail("epsilon is not one constant")
        if not weight.is_initializer() or len(weight.shape) != 1:
            return result.fail("the weight is not a vector")
        return result

    def rewrite(self, op, x, weight, epsilon, **_):
        return op.RMSNormalization(x, weight, axis=-1, epsilon=float(read(epsilon).item()))


def _is_constant(value: ir.Value, expected: float) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and tensor.size == 1 and tensor.numpy().item() == expected
