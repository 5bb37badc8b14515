"""Lint rules on operators: missing kernels, and precision that breaks positions or attention."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from ...runtime.sizes import counted
from ..operator import schema
from .facts import (
    HALVES,
    Facts,
    LintFinding,
    input_of,
    integer,
    label,
    listing,
    origin,
    readers,
    sources,
    weight,
)

# Source: tried with onnxruntime 1.32, which refuses what is later.
_LAST_OPSET = 28
_LAST_IR_VERSION = 14
_LAST_ATTENTION = 24  # the later ones have no kernel
_ATTENTION_NODES = 60  # nodes that one of them expands to

_WITH_KERNELS = {"", "ai.onnx", "ai.onnx.ml", schema.MICROSOFT, "com.microsoft.nchwc"}
_OF_ORT_ALONE = {"SimplifiedLayerNormalization"}  # in ONNX's domain, and not in ONNX
# Source: onnxruntime 1.32's own list of CPU kernels.
_NOT_ON_PROCESSOR = {
    "DecoderMaskedSelfAttention",
    "GemmFloat8",
    "GemmaRotaryEmbedding",
    "MatMulNBitsMlp",
    "MatMulNBitsQLoRA",
    "MatMulNBitsQkv",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "PagedAttention",
    "SparsePagedAttention",
    "SwiGLU",
}
_TURN = {"Transpose", "Reshape", "Identity"}
_TO_ANGLES = {*_TURN, "Cast", "Mul", "Add", "Concat", "Unsqueeze", "Squeeze", "Expand", "Slice"}
_FROM_POSITIONS = {*_TO_ANGLES, "MatMul", "Einsum"}
_EXACT_UP_TO = {ir.DataType.FLOAT16: 2048, ir.DataType.BFLOAT16: 256}  # every whole number


def opset_too_new(facts: Facts) -> Iterator[LintFinding]:
    """The file's opset or IR version is too new for onnxruntime."""
    found = (
        ("opset", facts.model.graph.opset_imports.get("", 0), _LAST_OPSET),
        ("ir_version", facts.model.ir_version, _LAST_IR_VERSION),
    )
    for name, version, last in found:
        if version > last:
            yield LintFinding(
                rule="opset-too-new",
                severity="error",
                where=facts.path.name,
                found=f"{name} is {version}, expected at most {last}",
                consequence="onnxruntime 1.32 refuses to load it",
                advice=f"export for opset {schema.OPSET}",
            )


def attention_expands(facts: Facts) -> Iterator[LintFinding]:
    """Attention of an opset without a CPU kernel."""
    opset = facts.model.graph.opset_imports.get("", 0)
    found = facts.of("Attention", domain="")
    if found and opset > _LAST_ATTENTION:
        yield LintFinding(
            rule="attention-expands",
            severity="warning",
            where=listing(map(label, found)),
            found=f"{len(found)} Attention of opset {opset}, expected at most {_LAST_ATTENTION}",
            consequence=(
                f"onnxruntime has no kernel: each becomes about {_ATTENTION_NODES} nodes, "
                f"{len(found) * _ATTENTION_NODES} in all, and holds all scores in memory"
            ),
            advice=f"export for opset {_LAST_ATTENTION}, or with GroupQueryAttention",
        )


def operator_unknown(facts: Facts) -> Iterator[LintFinding]:
    """An operator is neither onnxruntime's nor a function in the file."""
    opset = facts.model.graph.opset_imports.get("", 0)
    unknown: dict[tuple[str, str], list[ir.Node]] = {}
    for node in facts.nodes:
        if node.op_identifier() not in facts.model.functions and not _is_known(node, opset):
            unknown.setdefault((node.domain, node.op_type), []).append(node)
    for (domain, op_type), nodes in unknown.items():
        name = f"{domain or 'ai.onnx'}.{op_type}"
        yield LintFinding(
            rule="operator-unknown",
            severity="error",
            where=listing(map(label, nodes)),
            found=f"{len(nodes)} {name}: no such operator of opset {opset}, and no function body",
            consequence=f"onnxruntime refuses to load it: {name} is not a registered function/op",
            advice="put the function's body into the file, or register the operator's library",
        )


def not_on_processor(facts: Facts) -> Iterator[LintFinding]:
    """Operators that have kernels for other devices only."""
    found = facts.of(*_NOT_ON_PROCESSOR, domain=schema.MICROSOFT)
    if found:
        kinds = ", ".join(sorted({node.op_type for node in found}))
        yield LintFinding(
            rule="not-on-processor",
            severity="error",
            where=listing(map(label, found)),
            found=f"{counted(len(found), 'node')} of {kinds}",
            consequence="onnxruntime has no CPU kernel for them and refuses to load it",
            advice="export for the CPU (--execution_provider cpu), or run on the other device",
        )


def may_not_end(facts: Facts) -> Iterator[LintFinding]:
    """A loop, whose number of rounds is computed while it runs."""
    found = facts.of("Loop", domain="")
    if found:
        yield LintFinding(
            rule="may-not-end",
            severity="warning",
            where=listing(map(label, found)),
            found=f"{counted(len(found), 'Loop')}, expected none in a decoder",
            consequence="one step may take any time, or have no end",
            advice=(
                "set a limit: time_limit of Model.session, or tramontane run --time-limit SECONDS"
            ),
        )


def positions_rounded(facts: Facts) -> Iterator[LintFinding]:
    """Rope's angles are computed in 8 bits.

    Measured: optimum's int8 graph of a 5M Mistral agrees with its own float graph on 0.96 of the
    top tokens of a text of 50 tokens, 0.85 of 200, 0.58 of 1000; with this one node in float on
    0.96, 0.94 and 0.95.
    """
    found = [
        node
        for node in facts.of("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
        if readers(node, ("Cos", "Sin"), _TO_ANGLES)
    ]
    if found:
        most = facts.max_positions or 4096
        shared = (
            f"in a text of {most} tokens, {-(-most // 256)} neighbours share one position; "
            if most > 256
            else ""
        )
        yield LintFinding(
            rule="positions-rounded",
            severity="error",
            where=listing(map(label, found)),
            found=f"{found[0].op_type} computes rope's angles from positions quantized to 8 bits",
            consequence=(
                f"positions and frequencies have 256 levels: {shared}answers get worse with "
                "every token"
            ),
            advice="quantize again and leave this node out (nodes_to_exclude)",
        )


def attention_rounded(facts: Facts) -> Iterator[LintFinding]:
    """Attention multiplies queries, keys or values in 8 bits.

    Measured as above: with these nodes in float too, 0.95 of 1000 remain 0.95, and a step at
    position 3000 takes 1.5 times as long.
    """
    found = [
        node
        for node in facts.of("MatMulInteger")
        if not any(weight(input_of(node, index)) for index in (0, 1))
        and not readers(node, ("Cos", "Sin"), _TO_ANGLES)
    ]
    if found:
        yield LintFinding(
            rule="attention-rounded",
            severity="note",
            where=listing(map(label, found)),
            found=f"{len(found)} MatMulInteger multiply activations with activations",
            consequence=(
                "keys and values are quantized at each step with one scale for all tokens, and "
                "probabilities below 1/510 of the largest become 0"
            ),
            advice="compare with the float graph on long texts before you ship it",
        )


def positions_in_half(facts: Facts) -> Iterator[LintFinding]:
    """Rope's angles are computed in a type that does not hold all positions."""
    for node in facts.of("Cos", "Sin"):
        for value in sources(input_of(node, 0), _FROM_POSITIONS):
            producer = value.producer()
            to = integer(producer, "to", 0) if producer and producer.op_type == "Cast" else 0
            dtype = to or value.dtype
            is_computed = not _is_constant(origin(value, _TO_ANGLES))
            if dtype in _EXACT_UP_TO and is_computed:
                yield LintFinding(
                    rule="positions-in-half",
                    severity="error",
                    where=label(node),
                    found=f"rope's angles are {ir.DataType(dtype).name.lower()}: {value.name}",
                    consequence=(
                        f"past position {_EXACT_UP_TO[ir.DataType(dtype)]}, neighbouring "
                        "positions get the same angle"
                    ),
                    advice="compute the angles in float32, then round their sines and cosines",
                )
                return


def half_precision(facts: Facts) -> Iterator[LintFinding]:
    """Matrices in 16 bits, for which the CPU has few kernels."""
    for dtype in HALVES:
        found = [
            node
            for node in facts.of("MatMul", "Gemm")
            if any(v is not None and origin(v, _TURN).dtype == dtype for v in node.inputs[:2])
        ]
        if found and dtype == ir.DataType.FLOAT16:
            yield LintFinding(
                rule="half-precision",
                severity="note",
                where=listing(map(label, found)),
                found=f"{len(found)} multiplications in float16",
                consequence=(
                    "made for a GPU: on a CPU, onnxruntime adds casts to float32 around nodes "
                    "without a float16 kernel"
                ),
                advice="for a CPU, export float32 or packed weights",
            )
        elif found:
            yield LintFinding(
                rule="half-precision",
                severity="error",
                where=listing(map(label, found)),
                found=f"{len(found)} multiplications in bfloat16",
                consequence="on a CPU: Could not find an implementation for MatMul",
                advice="export float32, float16 or packed weights",
            )


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


def _is_known(node: ir.Node, opset: int) -> bool:
    if node.domain not in _WITH_KERNELS:
        return False
    if node.domain in ("", "ai.onnx"):
        known = onnx.defs.onnx_opset_version()
        return node.op_type in _OF_ORT_ALONE or onnx.defs.has(
            node.op_type, max_inclusive_version=opset if 0 < opset < known else known
        )
    return True
