"""Which inner tensors of a decoder's graph are which?

Found by the layers of weights that make and read them, and those by their names: ours, and those
that other exporters carry over from Hugging Face's modules. What multiplies is known by its kind
of node; what lies between two multiplications need not be known at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ...runtime.errors import ContractError
from ..quantization.activation_rounding import ByPosition, InBlocks, Rounding
from ..quantization.pack_for_ort import INT8_ACCURACY
from .linked_data import follow_links

# What each linear layer is called, as the last words of a name: ours first.
_ROLES = {
    "query_key_value": ("attention.query_key_value", "qkv_proj", "attn.qkv"),
    "query": ("attention.query", "q_proj"),
    "key": ("attention.key", "k_proj"),
    "value": ("attention.value", "v_proj"),
    "output": ("attention.output", "o_proj"),
    "gate": ("mlp.gate", "gate_proj"),
    "up": ("mlp.up", "up_proj"),
    "down": ("mlp.down", "down_proj"),
    "head": ("head", "lm_head"),
}
_ROLE_BY_WORD = {word: role for role, words in _ROLES.items() for word in words}
_WORDS = "|".join(sorted(map(re.escape, _ROLE_BY_WORD), key=len, reverse=True))
_NAME = re.compile(rf"(?:layers?[./](?P<layer>\d+)[./].*?)?(?<![a-z])(?P<word>{_WORDS})(?![a-z])")
_MULTIPLY = {"MatMul", "MatMulNBits", "Gemm", "DynamicQuantizeMatMul"}
# Rounded before and scaled after by nodes around them.
_OF_INTEGERS = {"MatMulInteger", "MatMulIntegerToFloat"}
_IN_BYTES = {"DynamicQuantizeMatMul", *_OF_INTEGERS}
_COLUMN_SCALES = {"DynamicQuantizeMatMul": 2, "MatMulIntegerToFloat": 3}  # their places
_ROUND = {"Cast", "Add", "Concat", "Round", "Div", "Split", "Reshape", "DynamicQuantizeLinear"}
_SCALE = ("Cast", "Split", "Add", "Mul", "Sum")  # in this order, those that are there
_REARRANGE = {"Transpose", "Reshape", "DequantizeLinear"}
_GATHER = {"Gather", "GatherBlockQuantized"}
_ORDER = ("query_key_value", "query", "key", "value", "output", "gate", "up", "down")
INPUT_IDS = "input_ids"
# Places among GroupQueryAttention's inputs, key before value.
_PASTS, _CACHE_SCALES = slice(3, 5), slice(12, 14)
_WITH_BATCH = 4  # dimensions of scales that are given for each channel


@dataclass(frozen=True, kw_only=True, slots=True)
class Multiplication:
    """One linear layer: the names of what it reads and makes, and how its weights are rounded."""

    role: str  # a key of ``_ROLES``
    layer: int | None  # None: the head
    source: str  # (B, T, K) float
    result: str  # (B, T, N) float
    bits: int  # of one weight; 32 in float
    block: int | None  # weights of a row that share a scale; None: all of them
    rounding: Rounding | None = None  # of activations; None: they are multiplied in float
    is_rounding_known: bool = True  # False: activations are rounded, but by a rule not known here


@dataclass(frozen=True, kw_only=True, slots=True)
class Taps:
    """Where a decoder's graph can be looked into."""

    embedding: str  # (B, T, M): rows of the embedding
    embedding_bits: int
    embedding_block: int | None
    head: Multiplication
    layers: tuple[dict[str, Multiplication], ...] = field(default=())

    def names(self, layer: int) -> list[str]:
        """All tensors of one layer, each once, in the order in which they are computed."""
        linears = [self.layers[layer][role] for role in _ORDER if role in self.layers[layer]]
        names = [name for linear in linears for name in (linear.source, linear.result)]
        return list(dict.fromkeys(names))


def find_graphs(folder: Path) -> list[Path]:
    """The graphs that lie in a folder, or else in ``onnx`` below it."""
    return sorted(folder.glob("*.onnx")) or sorted(folder.glob("onnx/*.onnx"))


def read_graph(path: Path) -> ir.Model:
    """Read a graph; its weights stay in their files, which may be links.

    Raises:
        ContractError: no such file, or not an ONNX graph.
    """
    try:
        model = ir.load(path)
    except (OSError, DecodeError, ValueError) as error:
        raise ContractError(f"{path}: not an ONNX graph ({error}); copy it again") from error
    if not len(model.graph):
        raise ContractError(f"{path}: not an ONNX graph, it has no nodes; copy it again")
    follow_links(model, path.parent)
    return model


def find_taps(graph: ir.Graph, *, num_layers: int) -> Taps:
    """Find all linear layers and the embedding of a decoder.

    Raises:
        ContractError: one is missing; the message says which.
    """
    layers: list[dict[str, Multiplication]] = [{} for _ in range(num_layers)]
    head = None
    for found in _multiplications(graph):
        if found.role == "head":
            head = found
        elif found.layer is not None and found.layer < num_layers:
            layers[found.layer].setdefault(found.role, found)
    for number, layer in enumerate(layers):
        wanted = set(_ORDER[4:]) | ({_ORDER[0]} if _ORDER[0] in layer else set(_ORDER[1:4]))
        if missing := sorted(wanted - layer.keys()):
            raise ContractError(
                f"layer {number}: no multiplication named like {', '.join(_ROLES[missing[0]])} "
                "is in the graph, expected one; it can only be checked from outside"
            )
    embedding = _embedding(graph)
    if head is None or embedding is None:
        raise ContractError(
            f"{'lm_head' if head is None else 'the embedding'}: no such node is in the graph, "
            "expected one; it can only be checked from outside"
        )
    name, bits, block = embedding
    return Taps(
        embedding=name,
        embedding_bits=bits,
        embedding_block=block,
        head=head,
        layers=tuple(layers),
    )


def fewest_bits(graph: ir.Graph) -> int:
    """Bits of a weight in the matrices that are rounded most; 32 where all are in float."""
    return min((found.bits for found in _multiplications(graph)), default=32)


def has_windowed_cache(graph: ir.Graph) -> bool:
    """Whether an attention drops rows by itself, so that its cache has a fixed number of them."""
    return any(
        node.op_type == "GroupQueryAttention"
        and node.attributes.get_int("sliding_window_cache", 0) == 1
        for node in graph
    )


def find_cache_scales(graph: ir.Graph) -> dict[str, np.ndarray]:
    """The scales of caches in 8 bits, by the names of the pasts; each broadcasts to (G, C, D)."""
    found = {}
    for node in graph:
        if node.op_type != "GroupQueryAttention":
            continue
        for past, scales in zip(node.inputs[_PASTS], node.inputs[_CACHE_SCALES], strict=False):
            if past is not None and scales is not None and scales.const_value is not None:
                array = np.asarray(scales.const_value.numpy(), np.float32)
                found[str(past.name)] = array[0] if array.ndim == _WITH_BATCH else array
    return found


def _multiplications(graph: ir.Graph) -> Iterator[Multiplication]:
    for node in graph:
        if node.op_type not in _MULTIPLY | _OF_INTEGERS or node.inputs[0] is None:
            continue
        found = next(filter(None, map(_NAME.search, _names_of(node))), None)
        if found is None:
            continue
        bits, block = _rounding(node)
        source, result, passed = (
            _around_integers(node)
            if node.op_type in _OF_INTEGERS
            else (node.inputs[0], node.outputs[0], set[str]())
        )
        rounding = _activation_rounding(node, passed, block)
        number = found["layer"]
        yield Multiplication(
            role=_ROLE_BY_WORD[found["word"]],
            layer=None if number is None else int(number),
            source=_name(source),
            result=_name(result),
            bits=bits,
            block=block,
            rounding=rounding,
            is_rounding_known=rounding is not None or node.op_type not in _IN_BYTES,
        )


def _activation_rounding(node: ir.Node, passed: set[str], block: int | None) -> Rounding | None:
    """How a multiplication rounds what it reads; None where it does not, or by no known rule.

    Args:
        node: the multiplication.
        passed: kinds of the nodes that round before it.
        block: of its weights.
    """
    if node.op_type == "MatMulNBits":
        is_rounded = node.attributes.get_int("accuracy_level", 0) == INT8_ACCURACY
        return InBlocks(node.attributes.get_int("block_size")) if is_rounded else None
    if node.op_type == "MatMulIntegerToFloat" and "Round" in passed and block is not None:
        return ByPosition(block, is_twice="Concat" in passed)
    return None


def _names_of(node: ir.Node) -> Iterator[str]:
    """Names that identify a matmul: its weight's, then its own."""
    for value in node.inputs[1:]:
        if value is not None and (origin := _origin(value)).is_initializer():
            yield _name(origin)
    yield node.name or ""


def _origin(value: ir.Value) -> ir.Value:
    """What a weight is before it is turned, cut or unpacked."""
    producer = value.producer()
    source = producer.inputs[0] if producer and producer.op_type in _REARRANGE else None
    return value if source is None else _origin(source)


def _around_integers(node: ir.Node) -> tuple[ir.Value | None, ir.Value, set[str]]:
    """What is rounded before a multiplication of integers, and what it is once it is scaled.

    Also the kinds of the nodes that round.
    """
    source, result = node.inputs[0], node.outputs[0]
    passed = set()
    while source is not None and (made_by := source.producer()) is not None:
        if made_by.op_type not in _ROUND:
            break
        passed.add(made_by.op_type)
        source = made_by.inputs[0]
    for expected in _SCALE:
        readers = [reader for reader, _ in result.uses() if reader.op_type == expected]
        result = readers[0].outputs[0] if readers else result
    return source, result, passed


def _embedding(graph: ir.Graph) -> tuple[str, int, int | None] | None:
    """The rows that the tokens gather, as floats, and how they are rounded."""
    gather = None
    for node in graph:
        is_by_tokens = any(value is not None and value.name == INPUT_IDS for value in node.inputs)
        if node.op_type in _GATHER and is_by_tokens:
            gather = node
            break
    if gather is None or gather.inputs[0] is None:
        return None
    table = _origin(gather.inputs[0])
    if gather.op_type != "Gather" or table.dtype == ir.DataType.FLOAT:
        return _name(gather.outputs[0]), *_rounding(gather)
    reached, bits = set(gather.outputs), 8
    for node in graph:
        if reached.isdisjoint(node.inputs):
            continue
        if node.op_type == "DequantizeLinear":
            return _name(node.outputs[0]), bits, _rounding(node)[1]
        bits = 4 if node.op_type == "BitShift" else bits  # two codes were in one byte
        reached |= set(node.outputs)
    return None


def _rounding(node: ir.Node) -> tuple[int, int | None]:
    """Bits of a weight, and how many share a scale; None where all of them, or a row, do."""
    attributes: dict[str, Any] = {a.name: a.value for a in node.attributes.values()}
    if node.op_type == "DequantizeLinear":
        typed = node.inputs[2] if len(node.inputs) > 2 else node.inputs[0]
        return _bits(typed), int(attributes.get("block_size", 0)) or None
    if "block_size" in attributes:
        bits = attributes.get("bits") or _bits(node.inputs[0])
        return int(bits), int(attributes["block_size"])
    if node.op_type in _IN_BYTES:
        return 8, _column(node)
    for value in node.inputs[:2]:
        producer = value.producer() if value is not None else None
        while producer is not None and producer.op_type == "Transpose":
            producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
        if producer is not None and producer.op_type == "DequantizeLinear":
            return _rounding(producer)
    return 32, None


def _column(node: ir.Node) -> int | None:
    """Weights of one output, where each output has a scale of its own; codes lie in columns."""
    codes, at = node.inputs[1], _COLUMN_SCALES.get(node.op_type)
    scales = node.inputs[at] if at is not None and at < len(node.inputs) else None
    if scales is None or scales.shape is None or codes is None or codes.shape is None:
        return None
    size = codes.shape[0]
    return size if isinstance(size, int) and scales.shape.rank() == 1 else None


def _bits(value: ir.Value | None) -> int:
    dtype = None if value is None else value.dtype
    return 8 if dtype is None else dtype.bitwidth


def _name(value: ir.Value | None) -> str:
    assert value is not None, "nodes of this type have this input"
    return str(value.name)
