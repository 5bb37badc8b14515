"""Fuse the root-mean-square norm into one node.

Before:  Mul(weight, Mul(x, Reciprocal(Sqrt(Add(ReduceMean(Pow(x, 2), -1), epsilon)))))
After:   RMSNormalization(x, weight)
Legal because that is the operator's definition, term by term, with the last axis alone.
Source: ONNX operator RMSNormalization, opset 23.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewritePass, RewriteRuleClassBase

from ..weights import read, size_of


class FuseRmsNorm(RewritePass):
    """Every norm over the last axis, whatever its epsilon."""

    def __init__(self) -> None:
        super().__init__([_RmsNorm.rule()])  # type: ignore[no-untyped-call]


class _RmsNorm(RewriteRuleClassBase):
    def pattern(self, op: Any, x: Any, weight: Any, exponent: Any, axes: Any, epsilon: Any) -> Any:
        mean_square = op.ReduceMean(op.Pow(x, exponent), axes, keepdims=1)
        return op.Mul(weight, op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean_square, epsilon)))))

    def check(  # type: ignore[override]
        self,
        context: Any,
        weight: ir.Value,
        exponent: ir.Value,
        axes: ir.Value,
        epsilon: ir.Value,
        **_: Any,
    ) -> MatchResult:
        result = MatchResult()
        if not _is_constant(exponent, 2.0):
            return result.fail("the exponent is not 2")
        if not _is_constant(axes, -1):
            return result.fail("the mean is not over the last axis alone")
        if epsilon.const_value is None or epsilon.const_value.size != 1:
            return result.fail("epsilon is not one constant")
        if not weight.is_initializer() or len(size_of(weight)) != 1:
            return result.fail("the weight is not a vector")
        return result

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, epsilon: ir.Value, **_: Any) -> Any:
        return op.RMSNormalization(x, weight, axis=-1, epsilon=float(read(epsilon).item()))


def _is_constant(value: ir.Value, expected: float) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and tensor.size == 1 and tensor.numpy().item() == expected
