"""The schema of our operator, SlidingWindowAttention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx.defs import OpSchema
from onnxscript.values import Opset

from ...runtime.ort import native_library

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "tramontane"
VERSION = 1
SLIDING_WINDOW_ATTENTION = "SlidingWindowAttention"
MICROSOFT = "com.microsoft"
NATIVE, NATIVE_VERSION = native_library.DOMAIN, native_library.OPERATOR_VERSION
OPSET = 23  # Attention, RotaryEmbedding and RMSNormalization; later Attentions have no CPU kernel

# The operator's inputs and outputs, in order.
INPUTS = (
    "query",
    "key",
    "value",
    "past_key",
    "past_value",
    "attention_mask",
    "cos_cache",
    "sin_cache",
)
OUTPUTS = ("attention", "present_key", "present_value")
ROPE_TABLES = ("cos_cache", "sin_cache")  # inputs too; nodes of these names compute them
ROPE_FREQUENCIES = "inverse_frequencies"  # the initializer that they are computed from


def named_inputs(node: ir.Node) -> dict[str, ir.Value]:
    """The inputs of a node of the operator, by name; all are mandatory."""
    found = {}
    for name, value in zip(INPUTS, node.inputs, strict=True):
        assert value is not None, "the schema makes every input of the operator mandatory"
        found[name] = value
    return found


def register_schema() -> Opset:
    """Register the operator with onnx, once, so that graphs with it can be built and checked."""
    if not onnx.defs.has(SLIDING_WINDOW_ATTENTION, VERSION, DOMAIN):
        types = {"attention_mask": "tensor(int64)"}
        parameters = [OpSchema.FormalParameter(name, types.get(name, "T")) for name in INPUTS]
        onnx.defs.register_schema(
            OpSchema(
                SLIDING_WINDOW_ATTENTION,
                DOMAIN,
                VERSION,
                doc="Defined in eager PyTorch: tramontane.export.model.attention.",
                inputs=parameters,
                outputs=[OpSchema.FormalParameter(name, "T") for name in OUTPUTS],
                type_constraints=[("T", ["tensor(float)"], "float32")],
                attributes=[
                    OpSchema.Attribute(
                        "window",
                        OpSchema.AttrType.INT,
                        "Keys a query sees, itself included; absent: all before it.",
                        required=False,
                    ),
                    OpSchema.Attribute(
                        "grows",
                        OpSchema.AttrType.INT,
                        "1: rows of keys that the window hides are kept; absent: they leave.",
                        required=False,
                    ),
                    OpSchema.Attribute(
                        "rotates",
                        OpSchema.AttrType.INT,
                        "0: queries and keys are not rotated by rope; absent: they are.",
                        required=False,
                    ),
                ],
            )
        )
    return Opset(DOMAIN, VERSION)
