"""The matmuls of a decoder's graph: the linear layer of each, what it reads and what it makes.

A linear layer is known by the name of its weight or of its node: ours, and those that other
exporters copy from Hugging Face's modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ..quantization.activation_rounding import Rounding
from .matmul_rounding import INT8_MATMULS, INTEGER_MATMULS, activation_rounding, weight_rounding

# What each linear layer is called, as the last words of a name: ours first.
ROLES = {
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
_ROLE_BY_WORD = {word: role for role, words in ROLES.items() for word in words}
_WORDS = "|".join(sorted(map(re.escape, _ROLE_BY_WORD), key=len, reverse=True))
_NAME = re.compile(rf"(?:layers?[./](?P<layer>\d+)[./].*?)?(?<![a-z])(?P<word>{_WORDS})(?![a-z])")
_FLOAT_OPS = {"MatMul", "MatMulNBits", "Gemm", "DynamicQuantizeMatMul"}  # float in and out
_ROUND = {"Cast", "Add", "Concat", "Round", "Div", "Split", "Reshape", "DynamicQuantizeLinear"}
_SCALE = ("Cast", "Split", "Add", "Mul", "Sum")  # in this order, those that are there
_NORMS = ("RMSNormalization", "SimplifiedLayerNormalization")
_REARRANGE = {"Transpose", "Reshape", "DequantizeLinear"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Matmul:
    """One linear layer: names of its input and output; rounding of weights and activations."""

    role: str  # a key of ``ROLES``
    layer: int | None  # None: the head
    source: str  # (B, T, K) float
    result: str  # (B, T, N) float
    bits: int  # of one weight; 32 in float
    block: int | None  # weights of a row that share a scale; None: all of them
    rounding: Rounding | None = None  # of activations; None: they stay in float
    is_rounding_known: bool = True  # False: activations are rounded by an unknown rule
    biased: str | None = None  # ``result`` with a bias added; None: no bias is
    normed: str | None = None  # that with each head normed, (B, T, N); None: none is


def find_matmuls(graph: ir.Graph) -> Iterator[Matmul]:
    """All matmuls that have a linear layer's name, in the graph's order."""
    for node in graph:
        if node.op_type not in _FLOAT_OPS | INTEGER_MATMULS or node.inputs[0] is None:
            continue
        found = next(filter(None, map(_NAME.search, _names_of(node))), None)
        if found is None:
            continue
        bits, block = weight_rounding(node)
        source, result, passed = (
            _around_integers(node)
            if node.op_type in INTEGER_MATMULS
            else (node.inputs[0], node.outputs[0], set[str]())
        )
        rounding = activation_rounding(node, passed, block)
        number = found["layer"]
        biased = next((add.outputs[0] for add in _readers(result, "Add") if _bias(add)), None)
        yield Matmul(
            role=_ROLE_BY_WORD[found["word"]],
            layer=None if number is None else int(number),
            source=name_of(source),
            result=name_of(result),
            bits=bits,
            block=block,
            rounding=rounding,
            is_rounding_known=rounding is not None or node.op_type not in INT8_MATMULS,
            biased=None if biased is None else name_of(biased),
            normed=_normed_heads(result if biased is None else biased),
        )


def fewest_bits(graph: ir.Graph) -> int:
    """The smallest number of bits of any matmul's weights; 32 where all are in float."""
    return min((found.bits for found in find_matmuls(graph)), default=32)


def _names_of(node: ir.Node) -> Iterator[str]:
    """Names that identify a matmul: its weight's, then its own."""
    for value in node.inputs[1:]:
        if value is not None and (origin := stored_weight(value)).is_initializer():
            yield name_of(origin)
    yield node.name or ""


def stored_weight(value: ir.Value) -> ir.Value:
    """The value behind a weight that is transposed, reshaped or dequantized before it is used."""
    producer = value.producer()
    source = producer.inputs[0] if producer and producer.op_type in _REARRANGE else None
    return value if source is None else stored_weight(source)


def _around_integers(node: ir.Node) -> tuple[ir.Value | None, ir.Value, set[str]]:
    """The float input and output of an integer matmul, and the op types that round its input."""
    source, result = node.inputs[0], node.outputs[0]
    passed = set()
    while source is not None and (made_by := source.producer()) is not None:
        if made_by.op_type not in _ROUND:
            break
        passed.add(made_by.op_type)
        source = made_by.inputs[0]
    for expected in _SCALE:
        readers = [one for one in _readers(result, expected) if not _bias(one)]
        result = readers[0].outputs[0] if readers else result
    return source, result, passed


def _readers(value: ir.Value | None, *op_types: str) -> list[ir.Node]:
    """The nodes of these types that read a value."""
    return [] if value is None else [one for one, _ in value.uses() if one.op_type in op_types]


def _bias(add: ir.Node) -> ir.Value | None:
    """The float vector that a node adds, as a linear layer's bias is."""
    if add.op_type != "Add":
        return None
    vectors = (
        one
        for one in add.inputs
        if one is not None and one.is_initializer() and one.dtype == ir.DataType.FLOAT
    )
    return next((one for one in vectors if one.shape is not None and len(one.shape) == 1), None)


def _normed_heads(value: ir.Value | None) -> str | None:
    """What is made of a projection's output where each head is normed: (B, T, N)."""
    for split in _readers(value, "Reshape"):
        for norm in _readers(split.outputs[0], *_NORMS):
            for joined in _readers(norm.outputs[0], "Reshape"):
                return name_of(joined.outputs[0])
    return None


def name_of(value: ir.Value | None) -> str:
    """The name of an input that the node must have."""
    assert value is not None, "nodes of this type have this input"
    return str(value.name)
