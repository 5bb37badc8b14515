"""Which tensors of a decoder's graph are which: those around each linear layer, and the embedding.

Only the matmuls and the gathering of the embedding need to be known; the nodes between them do
not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from ...runtime.errors import ContractError
from .matmul_rounding import weight_rounding
from .matmuls import ROLES, Matmul, find_matmuls, name_of, stored_weight

_GATHER = {"Gather", "GatherBlockQuantized"}
_ORDER = ("query_key_value", "query", "key", "value", "output", "gate", "up", "down")
INPUT_IDS = "input_ids"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRoles:
    """Names of a decoder's tensors: embedding rows, and each matmul's input and output."""

    embedding: str  # (B, T, M): rows of the embedding
    stored_embedding: str  # the same as the table holds them, whose columns may have other sizes
    embedding_bits: int
    embedding_block: int | None
    head: Matmul
    layers: tuple[dict[str, Matmul], ...] = field(default=())

    def names(self, layer: int) -> list[str]:
        """All tensors of one layer, each once, in the order in which they are computed."""
        linears = [self.layers[layer][role] for role in _ORDER if role in self.layers[layer]]
        names = [
            name
            for linear in linears
            for name in (linear.source, linear.result, linear.biased, linear.normed)
        ]
        return list(dict.fromkeys(name for name in names if name is not None))


def find_tensor_roles(graph: ir.Graph, *, num_layers: int) -> TensorRoles:
    """Find all linear layers and the embedding of a decoder.

    Raises:
        ContractError: one is missing; the message says which.
    """
    layers: list[dict[str, Matmul]] = [{} for _ in range(num_layers)]
    head = None
    for found in find_matmuls(graph):
        if found.role == "head":
            head = found
        elif found.layer is not None and found.layer < num_layers:
            layers[found.layer].setdefault(found.role, found)
    for number, layer in enumerate(layers):
        wanted = set(_ORDER[4:]) | ({_ORDER[0]} if _ORDER[0] in layer else set(_ORDER[1:4]))
        if missing := sorted(wanted - layer.keys()):
            raise ContractError(
                f"layer {number}: no matmul named like {', '.join(ROLES[missing[0]])} "
                "is in the graph, expected one; only the logits can be checked"
            )
    embedding = _embedding(graph)
    if head is None or embedding is None:
        raise ContractError(
            f"{'lm_head' if head is None else 'the embedding'}: no such node is in the graph, "
            "expected one; only the logits can be checked"
        )
    rows, bits, block = embedding
    return TensorRoles(
        embedding=name_of(_in_own_size(rows)),
        stored_embedding=name_of(rows),
        embedding_bits=bits,
        embedding_block=block,
        head=head,
        layers=tuple(layers),
    )


def _rows(gather: ir.Node) -> ir.Value:
    """Gathered rows after what follows at once.

    A slice drops the columns that fill their last block; columns of a matrix that is stored
    transposed become rows.
    """
    gathered = gather.outputs[0]
    follows = "Transpose" if gather.attributes.get_int("axis", 0) == 1 else "Slice"
    readers = [reader for reader, _ in gathered.uses()]
    is_followed = len(readers) == 1 and readers[0].op_type == follows
    return readers[0].outputs[0] if is_followed else gathered


def _in_own_size(rows: ir.Value) -> ir.Value:
    """Rows after each column is multiplied by a number of its own, as a smoothed table needs."""
    readers = [reader for reader, _ in rows.uses()]
    if len(readers) != 1 or readers[0].op_type != "Mul":
        return rows
    factors = next((one for one in readers[0].inputs if one is not None and one is not rows), None)
    if factors is None or not factors.is_initializer() or factors.shape is None:
        return rows
    return readers[0].outputs[0] if len(factors.shape) == 1 else rows


def _embedding(graph: ir.Graph) -> tuple[ir.Value, int, int | None] | None:
    """Gathered embedding rows, in float; their bits and block."""
    gather = None
    for node in graph:
        is_by_tokens = any(value is not None and value.name == INPUT_IDS for value in node.inputs)
        if node.op_type in _GATHER and is_by_tokens:
            gather = node
            break
    if gather is None or gather.inputs[0] is None:
        return None
    table = stored_weight(gather.inputs[0])
    if gather.op_type != "Gather" or table.dtype == ir.DataType.FLOAT:
        return _rows(gather), *weight_rounding(gather)
    reached, bits = set(gather.outputs), 8
    for node in graph:
        if reached.isdisjoint(node.inputs):
            continue
        if node.op_type == "DequantizeLinear":
            return node.outputs[0], bits, weight_rounding(node)[1]
        bits = 4 if node.op_type == "BitShift" else bits  # two codes were in one byte
        reached |= set(node.outputs)
    return None
