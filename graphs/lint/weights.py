"""Lint rules on packed weights: forms with slow kernels, and weights left in float."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from ...runtime.sizes import counted, format_bytes
from .facts import (
    FLOATS,
    MATRIX_INPUTS,
    Facts,
    LintFinding,
    gathers_by_tokens,
    input_of,
    integer,
    label,
    listing,
    num_bytes,
    origin,
    storage,
    weight,
)

_INT8_ACCURACY = 4  # multiply in int8
_LARGE_SHARE = 0.05  # of all weights' bytes
_BITS_PACKED = {8: 8.25, 4: 4.25}  # of a weight and its part of a float32 scale of 128 weights


def matmul_unpacks(facts: Facts) -> Iterator[LintFinding]:
    """Packed weights that are unpacked at each call, because accuracy_level is not 4.

    The ratios: one row by 2048 x 2048, block 128, onnxruntime 1.32, AVX512-VNNI, one thread.
    """
    for bits in (8, 4, 2):
        packed = [n for n in facts.of("MatMulNBits") if integer(n, "bits", 4) == bits]
        slow = [n for n in packed if integer(n, "accuracy_level", 0) != _INT8_ACCURACY]
        if slow:
            level = integer(slow[0], "accuracy_level", 0)
            yield LintFinding(
                rule="matmul-unpacks",
                severity="note" if bits == 4 else "warning",
                where=listing(map(label, slow)),
                found=(
                    f"{len(slow)} of {len(packed)} MatMulNBits of {bits} bits have "
                    f"accuracy_level {level}, expected {_INT8_ACCURACY}"
                ),
                consequence=(
                    "on a CPU, about 4 times slower for one row: it multiplies in float32"
                    if bits == 4
                    else "on a CPU, about 150 times slower: each call unpacks all weights"
                ),
                advice=f"set accuracy_level = {_INT8_ACCURACY}; the weights need no change",
            )


def float_zero_points(facts: Facts) -> Iterator[LintFinding]:
    """Zero points in float, for which no kernel multiplies packed weights directly."""
    found = [
        node
        for node in facts.of("MatMulNBits")
        if (points := input_of(node, 3)) is not None and origin(points).dtype in FLOATS
    ]
    if found:
        refused = [node for node in found if integer(node, "bits", 4) == 8]
        yield LintFinding(
            rule="float-zero-points",
            severity="error" if refused else "warning",
            where=listing(map(label, refused or found)),
            found=f"{len(found)} MatMulNBits have zero points in float, expected uint8",
            consequence=(
                "on a CPU, onnxruntime refuses 8-bit weights with them"
                if refused
                else "on a CPU, 20 to 120 times slower: each call unpacks all weights"
            ),
            advice="round the zero points and pack them, or quantize symmetrically",
        )


def float_left(facts: Facts) -> Iterator[LintFinding]:
    """Most matrices are packed; what stayed in float is large."""
    packed, plain = _matrices(facts)
    total = _total_bytes(facts)
    left = sum(map(num_bytes, plain))
    if len(packed) > len(plain) and left > _LARGE_SHARE * total:
        plain.sort(key=num_bytes, reverse=True)
        yield LintFinding(
            rule="float-left",
            severity="warning",
            where=listing((str(value.name) for value in plain), most=3),
            found=(
                f"{len(packed)} matrices are packed; {len(plain)} in float take "
                f"{format_bytes(left)}, {left / total:.0%} of all weights"
            ),
            consequence=f"packing them would save {format_bytes(left - _packed_bytes(plain, 8))}",
            advice=(
                f"pack them too: {format_bytes(_packed_bytes(plain, 8))} at 8 bits, "
                f"{format_bytes(_packed_bytes(plain, 4))} at 4 (GatherBlockQuantized reads rows)"
            ),
        )


def all_float(facts: Facts) -> Iterator[LintFinding]:
    """No matrix is packed."""
    packed, plain = _matrices(facts)
    if plain and not packed:
        total = sum(map(num_bytes, plain))
        yield LintFinding(
            rule="all-float",
            severity="note",
            where=facts.path.name,
            found=f"{counted(len(plain), 'matrix', 'matrices')}, {format_bytes(total)}, "
            f"all in {_types(plain)}",
            consequence="decoding is memory-bound: each token reads all weights but the embedding",
            advice=(
                f"pack them: {format_bytes(_packed_bytes(plain, 8))} at 8 bits, "
                f"{format_bytes(_packed_bytes(plain, 4))} at 4"
            ),
        )


def scale_for_all(facts: Facts) -> Iterator[LintFinding]:
    """Matrices of bytes with one scale for all their weights."""
    found = [
        node
        for node in facts.of("MatMulInteger")
        if (value := weight(input_of(node, 1))) is not None
        and value.shape is not None
        and len(value.shape) > 1
        and (points := input_of(node, 3)) is not None
        and points.shape is not None
        and len(points.shape) == 0
    ]
    if found:
        yield LintFinding(
            rule="scale-for-all",
            severity="note",
            where=listing(map(label, found)),
            found=f"{len(found)} matrices of 8 bits have one scale each, not one per column",
            consequence="the largest weight of a matrix sets the step of all its weights",
            advice="quantize per channel, or in blocks",
        )


def _matrices(facts: Facts) -> tuple[list[ir.Value], list[ir.Value]]:
    """The weights that are multiplied with, and the embedding: packed, and in float."""
    packed: dict[ir.Value, None] = {}
    plain: dict[ir.Value, None] = {}
    read = [(node, MATRIX_INPUTS.get(node.op_type, ())) for node in facts.nodes]
    read += [(node, (0,)) for node in gathers_by_tokens(facts)]
    for node, indices in read:
        for value in (weight(input_of(node, index)) for index in indices):
            if value is not None and value.shape is not None and len(value.shape) > 1:
                (plain if value.dtype in FLOATS else packed).setdefault(value)
    return list(packed), list(plain)


def _total_bytes(facts: Facts) -> int:
    """Bytes of all weights, shared ones once."""
    held = facts.model.graph.initializers.values()
    return sum({storage(value): num_bytes(value) for value in held}.values())


def _packed_bytes(values: Sequence[ir.Value], bits: int) -> int:
    weights = sum(value.const_value.size for value in values if value.const_value is not None)
    return int(weights * _BITS_PACKED[bits] / 8)


def _types(values: Sequence[ir.Value]) -> str:
    return ", ".join(sorted({str(value.dtype.numpy()) for value in values if value.dtype}))
