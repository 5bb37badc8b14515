"""Plans an export: sizes of the artifact, RAM to run it, RAM and disk to export it.

Answered from sizes alone, before a weight is read or a graph traced. How kernels hold weights was
found by measuring onnxruntime 1.32 on x86-64; ``make bench-export`` measures it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..graphs.passes.lower_attention import refuse_head_size
from ..graphs.quantization.methods.round_to_nearest import Scheme
from ..graphs.quantization.pack_dynamic_int8 import parts_of
from ..graphs.quantization.pack_matrices import refuse_odd_rows
from ..graphs.quantization.quantize_cache import refuse_int8_cache
from ..graphs.quantization.recipe import (
    DEFAULT_BLOCK,
    Recipe,
    is_calibrated,
    is_smoothed,
    quants_for,
    recipe_for,
    refuse_without_kernels,
)
from ..graphs.writing.external_data import ALIGNMENT_BYTES, INLINE_BYTES, SPARE_BYTES
from ..runtime.contract import Geometry
from ..runtime.errors import GraphError
from ..runtime.memory import DEFAULT_CHUNK, RUNTIME_BYTES, MemoryPlan
from .cache_choice import WINDOWED, CacheChoice, geometry_of
from .config import MistralConfig
from .formats.tensor_names import EMBEDDING, HEAD, parameters

# Measured. The tracer, a process of its own, by itself and by layer; then what the process that
# writes takes beside a matrix and its codes.
_TRACER_BYTES, _TRACED_LAYER_BYTES = 530 << 20, 2 << 20
_WRITER_BYTES, _WRITTEN_LAYER_BYTES = 180 << 20, 1 << 18
_REFERENCE_BYTES = 700 << 20  # torch, and what is compared; measured
_CALIBRATING_BYTES = 700 << 20  # torch, and what a layer computes of a few sequences; measured
_ARENA_SLACK = 1.3  # onnxruntime's arena grows in steps; measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One artifact, in bytes."""

    memory: MemoryPlan  # of a session
    disk_bytes: int  # that must be free
    export_peak_bytes: int  # resident memory while exporting, parity not counted
    reference_bytes: int  # resident memory of the parity gate's reference


@dataclass(frozen=True, kw_only=True, slots=True)
class _Matrix:
    """A matrix (N, K) and its readers; tied, it has two."""

    rows: int
    columns: int
    scheme: Scheme | None  # None: float32
    is_multiplied: bool
    is_gathered: bool
    parts: int = 0  # of a row, a scale each, where bytes multiply bytes; 0: blocks


def reference_bytes(config: MistralConfig) -> int:
    """Resident memory of the parity gate's reference: one layer, or one end, at a time."""
    return _REFERENCE_BYTES + _largest_at_once(config)


def _largest_at_once(config: MistralConfig) -> int:
    """Bytes in float32 of one layer, or of one end where that is larger."""
    sizes = {name: 4 * math.prod(shape) for name, shape in parameters(config).items()}
    layer = sum(size for name, size in sizes.items() if name.startswith("layers.0."))
    return max(layer, sizes[EMBEDDING])


def plan(
    config: MistralConfig,
    *,
    quant: str,
    target: str,
    block: int = DEFAULT_BLOCK,
    cache: CacheChoice = WINDOWED,
) -> Plan:
    """Plan one artifact of a checkpoint.

    Raises:
        GraphError: an unknown quant, or a block size, a head size, a cache or rows that kernels
            do not take.
    """
    _refuse_without_kernels(config, quant, target, block, cache)
    quants = {quant, *quants_for(target)}
    totals = {other: _resident(config, other, target, block) for other in quants}
    weights = sum(_aligned(size) for size in _file_sizes(config, quant, target, block, cache))
    geometry = geometry_of(config, cache)
    rows = sum(geometry.max_positions if each is None else each for each in geometry.rows)
    cache_bytes = rows * geometry.layer_row_bytes
    activations = _activation_bytes(config, quant, target, geometry)
    memory = MemoryPlan(
        weights_bytes=weights,
        resident_weights_bytes=totals[quant],
        activation_bytes=activations,
        runtime_bytes=RUNTIME_BYTES,
        cache_bytes_per_token=geometry.row_bytes,
        cache_bytes_at_most=cache_bytes,
        resident_bytes=totals[quant] + activations + RUNTIME_BYTES + cache_bytes,
        other_quants={
            other: total
            + _activation_bytes(config, other, target, geometry)
            + RUNTIME_BYTES
            + cache_bytes
            for other, total in totals.items()
            if other != quant
        },
    )
    return Plan(
        memory=memory,
        disk_bytes=weights + SPARE_BYTES,
        export_peak_bytes=max(
            _export_peak_bytes(config, quant, block, cache),
            _calibrating_bytes(config) if is_calibrated(quant, cache.dtype) else 0,
        ),
        reference_bytes=reference_bytes(config),
    )


def plan_each(
    config: MistralConfig,
    *,
    target: str,
    block: int = DEFAULT_BLOCK,
    cache: CacheChoice = WINDOWED,
) -> tuple[dict[str, Plan], list[str]]:
    """Plan an artifact in every quant that a target has.

    Returns:
        plans by quant, and why there is none for the others.

    Raises:
        GraphError: there is none for any.
    """
    plans, refusals = {}, []
    for quant in quants_for(target):
        try:
            plans[quant] = plan(config, quant=quant, target=target, block=block, cache=cache)
        except GraphError as error:
            refusals.append(error)
    if not plans:
        raise refusals[0]
    return plans, [str(error) for error in refusals]


def _refuse_without_kernels(
    config: MistralConfig, quant: str, target: str, block: int, cache: CacheChoice
) -> None:
    """Refuse before anything is traced what no kernel would take when the graph runs."""
    refuse_without_kernels(target, quant)
    refuse_head_size(head_dim=config.head_dim, target=target, quant=quant, kv=cache.dtype)
    if cache.dtype == "int8":
        refuse_int8_cache(target=target, head_dim=config.head_dim)
    for matrix in _matrices(config, recipe_for(quant, block)):
        if matrix.scheme is not None:
            refuse_odd_rows(f"--quant {quant}", columns=matrix.columns, scheme=matrix.scheme)


def _matrices(
    config: MistralConfig, recipe: Recipe | None, *, in_bytes: bool = False
) -> Iterator[_Matrix]:
    is_tied = config.tie_word_embeddings
    for name, shape in parameters(config).items():
        if len(shape) != 2 or (name == EMBEDDING and is_tied):
            continue
        scheme = None
        if recipe is not None:
            scheme = {EMBEDDING: recipe.embedding, HEAD: recipe.head}.get(name, recipe.linear)
        yield _Matrix(
            rows=shape[0],
            columns=shape[1],
            scheme=scheme,
            is_multiplied=name != EMBEDDING,
            is_gathered=name == EMBEDDING or (name == HEAD and is_tied),
            parts=_parts_of_row(name, shape[1]) if in_bytes else 0,
        )


def _parts_of_row(name: str, columns: int) -> int:
    if name in (EMBEDDING, HEAD):
        return 0
    return parts_of(columns) if name.endswith("mlp.down.weight") else 1


def _file_sizes(
    config: MistralConfig, quant: str, target: str, block: int, cache: CacheChoice
) -> Iterator[int]:
    """Bytes of each weight that lies in a file of weights."""
    for matrix in _matrices(config, recipe_for(quant, block), in_bytes=is_smoothed(quant)):
        codes, scales, zero_points = _parts(matrix, target)
        yield from (*codes, *scales, *zero_points)
    yield from (4 * size for size in _vectors(config) if 4 * size >= INLINE_BYTES)
    yield from (_rope_table_bytes(config),) * 2
    if cache.dtype == "int8":
        of_one = 4 * config.num_key_value_heads * config.head_dim
        yield from (of_one,) * (2 * config.num_hidden_layers if of_one >= INLINE_BYTES else 0)


def _parts(matrix: _Matrix, target: str) -> tuple[list[int], list[int], list[int]]:
    """Bytes of a matrix's codes, of its scales and of its zero points, in each layout needed.

    For ``web`` a matrix is multiplied with a scale a row, and gathered in blocks. In
    ``int8-dynamic`` so are the layers', but for the one that is cut into parts.
    """
    N, K, scheme = matrix.rows, matrix.columns, matrix.scheme
    if matrix.parts:
        return [N * K // matrix.parts] * matrix.parts, [4 * N] * matrix.parts, []
    readers = matrix.is_multiplied + matrix.is_gathered
    if scheme is None:
        return [4 * N * K] * readers, [], []
    blocks = scheme.blocks_of(K)
    in_rows = N * K * scheme.bits // 8
    in_blocks = N * blocks * scheme.block * scheme.bits // 8
    if target == "web" and matrix.is_multiplied:
        return [in_rows] * readers, [4 * N, *([4 * N * blocks] if matrix.is_gathered else [])], []
    codes = {in_rows}
    if target == "ort" and matrix.is_multiplied:
        codes = {in_blocks, *([in_rows] if matrix.is_gathered else [])}
    if scheme.is_symmetric:
        zero_points = []
    elif target == "ort":
        zero_points = [N * -(-blocks // 2)]
    else:
        zero_points = [
            *([-(-N * blocks // 2)] if matrix.is_multiplied else []),
            *([N * blocks] if matrix.is_gathered else []),
        ]
    return sorted(codes), [4 * N * blocks], zero_points


def _resident(config: MistralConfig, quant: str, target: str, block: int) -> int:
    """Bytes of all weights as kernels hold them.

    onnxruntime packs what it multiplies by and lets the file's pages go. Of MatMulNBits' scales
    there are three copies: packed, as each block's sum, and as mapped from the file. Rows that
    are gathered stay mapped; all are counted. ``portable`` unpacks a matrix at each use, next to
    its transpose.
    """
    total = 4 * sum(_vectors(config)) + 2 * _rope_table_bytes(config)
    for matrix in _matrices(config, recipe_for(quant, block), in_bytes=is_smoothed(quant)):
        codes, scales, zero_points = _parts(matrix, target)
        copies = 3 if target == "ort" and matrix.is_multiplied and not matrix.parts else 1
        total += sum(codes) + copies * sum(scales) + sum(zero_points)
    return total


def _activation_bytes(config: MistralConfig, quant: str, target: str, geometry: Geometry) -> int:
    """Bytes of what a chunk of prefill computes on the way."""
    heads = config.num_attention_heads * config.head_dim
    widths = 3 * config.intermediate_size + 3 * config.hidden_size + 3 * heads
    total = int(_ARENA_SLACK * 4 * DEFAULT_CHUNK * widths)
    if target != "portable":
        return total
    keys = DEFAULT_CHUNK + max(rows or geometry.max_positions for rows in geometry.rows)
    scores = 4 * config.num_attention_heads * DEFAULT_CHUNK * keys
    unpacked = 0
    if quant != "fp32":
        unpacked = 2 * 4 * max(m.rows * m.columns for m in _matrices(config, None))
    return total + scores + unpacked


def _export_peak_bytes(config: MistralConfig, quant: str, block: int, cache: CacheChoice) -> int:
    """The larger of tracing, and of writing the largest matrix: as float32 and in codes."""
    recipe = recipe_for(quant, block)
    largest = max(
        4 * m.rows * m.columns
        + (m.rows * m.columns * m.scheme.bits // 8 if m.scheme is not None else 0)
        for m in _matrices(config, recipe)
    )
    layers = config.num_hidden_layers
    return max(
        reference_bytes(config) if cache.dtype == "int8" else 0,  # calibrates the scales
        _TRACER_BYTES + layers * _TRACED_LAYER_BYTES,
        _WRITER_BYTES + layers * _WRITTEN_LAYER_BYTES + largest,
    )


def _calibrating_bytes(config: MistralConfig) -> int:
    """What calibrating takes, in a process beside the one that will write."""
    return _WRITER_BYTES + _CALIBRATING_BYTES + _largest_at_once(config)


def _vectors(config: MistralConfig) -> list[int]:
    return [shape[0] for shape in parameters(config).values() if len(shape) == 1]


def _rope_table_bytes(config: MistralConfig) -> int:
    return 4 * config.max_position_embeddings * config.head_dim // 2


def _aligned(size: int) -> int:
    return size + -size % ALIGNMENT_BYTES
