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
A graph where onnxruntime's kernel drops rows by itself (``sliding_window_cache``) is left alone:
that kernel takes no padding on either side, and says so when it runs. Our own takes it.
Source: ONNX operator specification, TopK-11 and GatherND-13.
"""

from __future__ import annotations

import onnx_ir as ir

from ...runtime import contract
from ...runtime.errors import GraphError
from ..operator.group_query_attention import EVICTS, is_group_query_attention
from ..operator.schema import MICROSOFT

_TO_THE_END = 2**63 - 1


class AllowLeftPadding(ir.passes.InPlacePass):
    """The gather of the embedding's rows, and what reads the last layer's output."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; a graph whose tokens are moved already is left alone."""
        graph = model.graph
        last_of_rows, reader = _ends(graph)
        embedded = last_of_rows.outputs[0]
        read_by = {user.op_type for user, _ in embedded.uses()}
        if _takes_no_padding(graph) or read_by == {"GatherND"}:
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
        returned = ir.node("GatherND", [reader.inputs[0], places], {"batch_dims": 1})
        embedded.replace_all_uses_with(moved.outputs[0])
        moved.replace_input_with(0, embedded)
        graph.insert_before(last_of_rows, list(tape.nodes))
        graph.insert_after(last_of_rows, moved)
        reader.replace_input_with(0, returned.outputs[0])
        graph.insert_before(reader, returned)
        return ir.passes.PassResult(model, modified=True)


def _takes_no_padding(graph: ir.Graph) -> bool:
    return any(
        is_group_query_attention(node)
        and node.domain == MICROSOFT
        and node.attributes.get_int(EVICTS, 0) == 1
        for node in graph
    )


def _ends(graph: ir.Graph) -> tuple[ir.Node, ir.Node]:
    """The node that makes the embedding's rows, and the last that reads all positions' (B, T, M).

    The first is the gather, the transpose behind it where the table is the head's and lies as that
    multiplies (``fold_transposes.py``), or the product behind it that gives a smoothed table's
    columns their own size. The last is the head's matmul, or the slice before it that keeps the
    last positions.
    """
    gather = next((found for node in graph if (found := _rows_of_tokens(node))), None)
    reader = next(
        (value.producer() for value in graph.outputs if value.name == contract.LOGITS), None
    )
    if gather is None or reader is None or "MatMul" not in reader.op_type:
        raise GraphError(
            f"{contract.LOGITS}: expected an embedding gathered by {contract.INPUT_IDS} and a "
            "linear layer at the end"
        )
    before = reader.inputs[0].producer() if reader.inputs[0] is not None else None
    last = before if before is not None and before.op_type == "Slice" else reader
    users = [user for user, _ in gather.outputs[0].uses()]
    return users[0] if len(users) == 1 and _multiplies_columns(users[0]) else gather, last


def _multiplies_columns(node: ir.Node) -> bool:
    return node.op_type == "Mul" and any(
        one is not None and one.is_initializer() for one in node.inputs
    )


def _rows_of_tokens(node: ir.Node) -> ir.Node | None:
    """What makes rows (B, T, M), if the node gathers from the embedding by the graph's tokens."""
    if node.op_type not in ("Gather", "GatherBlockQuantized"):
        return None
    table, ids = node.inputs[:2]
    if table is None or not table.is_initializer() or ids is None:
        return None
    if ids.name != contract.INPUT_IDS:
        return None
    axis = node.attributes.get_int("gather_axis", node.attributes.get_int("axis", 0))
    if axis == 0:
        return node
    users = [user for user, _ in node.outputs[0].uses()]  # of (M, B, T)
    is_turned = len(users) == 1 and users[0].op_type == "Transpose"
    return users[0] if axis == 1 and is_turned else None


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
