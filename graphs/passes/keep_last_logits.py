"""Let the caller ask for the last positions' logits only.

Before:  logits = MatMul(x, Transpose(head))
After:   logits = MatMul(Slice(x, -num_logits_to_keep), Transpose(head))
Legal because each row of logits depends on its own row of x alone; with 0, the default, the slice
starts at -0 and keeps all. Decoding needs one row, and the head is the largest weight.
"""

from __future__ import annotations

import onnx_ir as ir

from ...runtime import contract
from ...runtime.errors import GraphError
from ..linear import as_linear

_TO_THE_END = 2**63 - 1


class KeepLastLogits(ir.passes.InPlacePass):
    """The linear layer that makes the graph's output ``logits``."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; a graph that has the input already is left alone."""
        graph = model.graph
        if any(value.name == contract.NUM_LOGITS_TO_KEEP for value in graph.inputs):
            return ir.passes.PassResult(model, modified=False)
        head = next(
            (
                as_linear(value.producer())
                for value in graph.outputs
                if value.name == contract.LOGITS
            ),
            None,
        )
        if head is None:
            raise GraphError(
                f"{contract.LOGITS}: expected the output of a linear layer; "
                "run this pass before weights are quantized"
            )
        count = ir.Value(
            name=contract.NUM_LOGITS_TO_KEEP,
            type=ir.TensorType(ir.DataType.INT64),
            shape=ir.Shape(()),
            const_value=ir.tensor(0, dtype=ir.DataType.INT64, name=contract.NUM_LOGITS_TO_KEEP),
        )
        graph.inputs.append(count)
        graph.register_initializer(count)
        tape = ir.tape.Tape()
        axis = tape.op("Constant", [], {"value_ints": [0]}, output=ir.Value(name="first_axis"))
        start = tape.op("Unsqueeze", [tape.op("Neg", [count]), axis])
        end = tape.op("Constant", [], {"value_ints": [_TO_THE_END]})
        positions = tape.op("Constant", [], {"value_ints": [1]})
        kept = tape.op("Slice", [head.input, start, end, positions])
        graph.insert_before(head.matmul, list(tape.nodes))
        head.matmul.replace_input_with(0, kept)
        return ir.passes.PassResult(model, modified=True)
