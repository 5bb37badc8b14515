"""Plans an export: sizes of the artifact, RAM to run it, RAM and disk to export it.

Computed from sizes alone, before a weight is read or a graph traced.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

from ...graphs.quantization.matrix_schemes import Role
from ...graphs.quantization.packing.pack_matrices import refuse_odd_rows
from ...graphs.quantization.recipes.all_recipes import find_recipe
from ...graphs.quantization.recipes.recipe import DEFAULT_BLOCK, Recipe
from ...graphs.targets.all_targets import find_target
from ...graphs.weights import WHOLE_BYTES
from ...graphs.writing.external_data import ALIGNMENT_BYTES, SPARE_BYTES
from ...runtime.errors import GraphError
from ...runtime.memory import DEFAULT_CHUNK, RUNTIME_BYTES, MemoryPlan
from ...runtime.sizes import bits_per_weight
from ..cache_choice import WINDOWED, CacheChoice, geometry_of
from ..calibrate.tokens import DEFAULT_TOKENS
from ..config import MistralConfig
from ..formats.tensor_names import EMBEDDING, parameters
from .planned_weights import PlannedWeights

# Measured. The tracer, a process of its own, by itself and by layer; then what the process that
# writes takes beside a matrix and its codes.
_TRACER_BYTES, _TRACED_LAYER_BYTES = 530 << 20, 2 << 20
_TOKEN_BYTES = 800  # of a token of the vocabulary, which the export holds while it traces
_WRITER_BYTES, _WRITTEN_LAYER_BYTES = 180 << 20, 1 << 18
_ROWS_BYTES = 64 << 20  # of a large matrix, what threads round at once, and scales; measured
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
    bits_per_weight: float  # of the files of weights, as ``runtime/sizes.py`` defines it


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
    quant: str | Recipe,
    target: str,
    block: int = DEFAULT_BLOCK,
    cache: CacheChoice = WINDOWED,
) -> Plan:
    """Plan one artifact of a checkpoint.

    ``other_quants`` of its memory has our recipes by which it could be exported instead.

    Raises:
        GraphError: an unknown recipe, or one that does not fit the model, or a block size, a head
            size, a cache or rows that kernels do not take.
    """
    weights = PlannedWeights(
        config=config,
        target=find_target(target),
        recipe=find_recipe(quant),
        block=block,
        cache=cache,
    )
    _refuse_without_kernels(weights)
    others = {
        other: dataclasses.replace(weights, recipe=find_recipe(other))
        for other in weights.target.quants()
    }
    others = {other: one for other, one in others.items() if _fits(one)}
    own = weights.recipe.name
    others[own] = weights
    resident = {other: _resident_bytes(one) for other, one in others.items()}
    activations = {other: _activation_bytes(one) for other, one in others.items()}
    weights_bytes = sum(_aligned(size) for size in weights.file_sizes())
    geometry = geometry_of(config, cache)
    rows = sum(geometry.max_positions if each is None else each for each in geometry.rows)
    cache_bytes = rows * geometry.layer_row_bytes
    memory = MemoryPlan(
        weights_bytes=weights_bytes,
        resident_weights_bytes=resident[own],
        activation_bytes=activations[own],
        runtime_bytes=RUNTIME_BYTES,
        cache_bytes_per_token=geometry.row_bytes,
        cache_bytes_at_most=cache_bytes,
        resident_bytes=resident[own] + activations[own] + RUNTIME_BYTES + cache_bytes,
        other_quants={
            other: total + activations[other] + RUNTIME_BYTES + cache_bytes
            for other, total in resident.items()
            if other != own
        },
    )
    return Plan(
        memory=memory,
        disk_bytes=weights_bytes + _scratch_bytes(weights, weights_bytes) + SPARE_BYTES,
        export_peak_bytes=max(
            _export_peak_bytes(weights),
            _calibrating_bytes(weights) if weights.recipe.is_calibrated(cache.dtype) else 0,
        ),
        reference_bytes=reference_bytes(config),
        bits_per_weight=bits_per_weight(weights_bytes, config.num_parameters),
    )


def plan_each(
    config: MistralConfig,
    *,
    target: str,
    own: Recipe | None = None,
    block: int = DEFAULT_BLOCK,
    cache: CacheChoice = WINDOWED,
) -> tuple[dict[str, Plan], list[str]]:
    """Plan an artifact by every recipe of ours that a target has, and by one's own.

    Returns:
        plans by the recipe's name, and why there is none for the others.

    Raises:
        GraphError: there is none for any.
    """
    plans, refusals = {}, []
    ours = map(find_recipe, find_target(target).quants())
    for quant in (*ours, *([] if own is None else [own])):
        try:
            plans[quant.name] = plan(config, quant=quant, target=target, block=block, cache=cache)
        except GraphError as error:
            refusals.append(error)
    if not plans:
        raise refusals[0]
    return plans, [str(error) for error in refusals]


@functools.lru_cache(maxsize=32)  # every plan has the sizes of all recipes
def _resident_bytes(weights: PlannedWeights) -> int:
    return weights.resident_bytes()


@functools.lru_cache(maxsize=32)
def _fits(weights: PlannedWeights) -> bool:
    return not weights.odd_rows()


def _refuse_without_kernels(weights: PlannedWeights) -> None:
    """Refuse before anything is traced what no kernel would take when the graph runs."""
    config, target, recipe = weights.config, weights.target, weights.recipe
    recipe.refuse_unfit([name for name, shape in parameters(config).items() if len(shape) == 2])
    target.refuse_recipe(recipe)
    target.refuse_head_size(config.head_dim, quant=recipe, kv=weights.cache.dtype)
    if weights.cache.is_quantized:
        target.refuse_int8_cache(config.head_dim)
    target.refuse_block(weights.block)
    for columns, scheme in weights.odd_rows():
        refuse_odd_rows(recipe.option, columns=columns, scheme=scheme)


def _activation_bytes(weights: PlannedWeights) -> int:
    """Bytes of what a chunk of prefill computes on the way."""
    config = weights.config
    heads = config.num_attention_heads * config.head_dim
    widths = 3 * config.intermediate_size + 3 * config.hidden_size + 3 * heads
    total = int(_ARENA_SLACK * 4 * DEFAULT_CHUNK * widths)
    geometry = geometry_of(config, weights.cache)
    keys = DEFAULT_CHUNK + max(rows or geometry.max_positions for rows in geometry.rows)
    largest = 4 * max(math.prod(one.shape) for one in weights.matrices())
    return total + weights.target.extra_activation_bytes(
        scores_bytes=4 * config.num_attention_heads * DEFAULT_CHUNK * keys,
        dequantized_bytes=largest if weights.recipe.is_quantized else 0,
    )


def _export_peak_bytes(weights: PlannedWeights) -> int:
    """The larger of tracing, and of writing the largest matrix: in codes, and as float32.

    Of the latter, rows alone where the matrix is large and a tensor of the checkpoint.
    """
    config, schemes, tensors = weights.config, weights.schemes, parameters(weights.config)
    largest = 0
    for name, shape, roles in weights.matrices():
        scheme, floats = schemes.scheme_for(name, roles), 4 * math.prod(shape)
        if scheme is None:
            largest = max(largest, floats)
            continue
        codes = math.prod(shape) * scheme.bits // 8
        comes_in_rows = floats > WHOLE_BYTES and name in tensors
        largest = max(largest, codes + (_ROWS_BYTES if comes_in_rows else floats))
    layers = config.num_hidden_layers
    return max(
        reference_bytes(config) if weights.cache.is_quantized else 0,  # calibrates the scales
        _TRACER_BYTES + layers * _TRACED_LAYER_BYTES + config.vocab_size * _TOKEN_BYTES,
        _WRITER_BYTES + layers * _WRITTEN_LAYER_BYTES + largest,
    )


def _calibrating_bytes(weights: PlannedWeights) -> int:
    """What calibrating takes, in a process beside the one that will write.

    Where it rounds, three matrices as wide as the widest inputs are in memory at once, and a layer
    both rounded and in float, with what enters and leaves it.
    """
    config = weights.config
    found = _WRITER_BYTES + _CALIBRATING_BYTES + _largest_at_once(config)
    if weights.recipe.rounds_in_calibration:
        widest = max(one.shape[1] for one in weights.matrices() if Role.EMBEDDING not in one.roles)
        found += 3 * 4 * widest**2 + _largest_at_once(config) + 4 * _hidden_bytes(config)
    return found


def _scratch_bytes(weights: PlannedWeights, weights_bytes: int) -> int:
    """What lies on the disk until the weights are written: rounded matrices, hidden states."""
    if not weights.recipe.rounds_in_calibration:
        return 0
    # Of both models; written anew before it is replaced.
    return weights_bytes + 4 * _hidden_bytes(weights.config)


def _hidden_bytes(config: MistralConfig) -> int:
    return 4 * DEFAULT_TOKENS * config.hidden_size


def _aligned(size: int) -> int:
    return size + -size % ALIGNMENT_BYTES
