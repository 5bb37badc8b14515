"""Let sequences of one batch be padded on the left, as most runtimes pad prompts.

Before:  x = Gather(embedding, input_ids) ... logits = MatMul(y, Transpose(head))
After:   x = GatherND(Gather(embedding, input_ids), order)
         logits = MatMul(GatherND(y, places), Transpose(head))
         where order lists each sequence's new columns, those of tokens first: TopK of the mask's
         last columns; and places is its inverse: TopK of order, smallest first
Legal because attention is the only operator that reads more than one position, and it takes each
sequence's tokens from its first row on, with what the mask's sum leaves out behind them: moved
there, padding on the left is padding on the right. Logits return to the columns of their tokens.
TopK is stable (of equal values the lower index comes first), so that columns without padding on
the left keep their order: then nothing moves, and no number changes.
A graph whose kernel drops rows by itself (``sliding_window_cache``) is left alone: that kernel
takes no padding on either side, and says so when it runs.
Source: ONNX operator specification, TopK-11 and GatherND-13.
"""

from __future__ import annotations

import onnx_ir as ir

from ...runtime import contract
from ...runtime.errors import GraphError
from ..linear import Linear, as_linear, gathers
from ..probing.attention_caches import has_windowed_cache

_TO_THE_END = 2**63 - 1


class AllowLeftPadding(ir.passes.InPlacePass):
    """The gather of the embedding's rows, and the linear layer that makes ``logits``."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; a graph whose tokens are moved already is left alone."""
        graph = model.graph
        gather, head = _ends(graph)
        embedded = gather.outputs[0]
        read_by = {user.op_type for user, _ in embedded.uses()}
        if has_windowed_cache(graph) or read_by == {"GatherND"}:
            return ir.passes.PassResult(model, modified=False)
        inputs = {value.name: value for value in graph.inputs}
        tokens, mask = inputs[contract.INPUT_IDS], inputs[contract.ATTENTION_MASK]
        tape = ir.tape.Tape()
        size = tape.op("Shape", [tokens], {"start": 1, "end": 2})
        end, axis = (tape.op("Constant", [], {"value_ints": [n]}) for n in (_TO_THE_END, 1))
        new = tape.op("Slice", [mask, tape.op("Neg", [size]), end, axis])
        last = tape.op("Constant", [], {"value_ints": [-1]})
        order = _order(tape, "order", tape.op("Unsqueeze", [new, last]), size, largest=1)
        places = _order(tape, "places", order, size, largest=0)
        moved = ir.node("GatherND", [embedded, order], {"batch_dims": 1})
        returned = ir.node("GatherND", [head.input, places], {"batch_dims": 1})
        embedded.replace_all_uses_with(moved.outputs[0])
        moved.replace_input_with(0, embedded)
        graph.insert_before(gather, list(tape.nodes))
        graph.insert_after(gather, moved)
        head.matmul.replace_input_with(0, returned.outputs[0])
        graph.insert_before(head.matmul, returned)
        return ir.passes.PassResult(model, modified=True)


def _ends(graph: ir.Graph) -> tuple[ir.Node, Linear]:
    """The gather of the embedding's rows, (B, T, M), and the head."""
    gather = next(
        (
            node
            for node in gathers(graph)
            if any(value is not None and value.name == contract.INPUT_IDS for value in node.inputs)
        ),
        None,
    )
    head = next(
        (as_linear(value.producer()) for value in graph.outputs if value.name == contract.LOGITS),
        None,
    )
    if gather is None or head is None:
        raise GraphError(
            f"{contract.LOGITS}: expected an embedding gathered by {contract.INPUT_IDS} and a "
            "linear layer at the end; run this pass before weights are quantized"
        )
    return gather, head


def _order(
    tape: ir.tape.Tape, name: str, keys: ir.Value, size: ir.Value, *, largest: int
) -> ir.Value:
    """Indices (B, T, 1) int64 that sort keys (B, T, 1); of equal ones the lower comes first."""
    _, indices = tape.op_multi_out(
        "TopK",
        [keys, size],
        {"axis": 1, "largest": largest},
        outputs=[ir.Value(), ir.Value(name=name)],
    )
    return indices
