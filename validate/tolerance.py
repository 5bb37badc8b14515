"""How much error is allowed, and why?

Set from measurements on the embedded model and ten seeds of tokens, with room above the worst of
them; every planted fault lies outside (``make faults``). ``TOLERANCE=`` scales all of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..errors import ContractError


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Bounds on all figures of one recipe; None: not bounded."""

    max_logit_difference: float | None
    mean_kl: float  # nats, on text
    same_top: float  # share of positions, on text
    greedy_is_identical: bool
    random: float  # how much more divergence, and how many more other tops, on random tokens
    cache_error: float | None  # of one row of keys or values, relative to its length
    typical_cache_error: float  # of half of a layer's rows
    weight_error: float  # of one weight, relative to the largest of its block
    linear_error: float  # of one position, by a multiplication, relative to its length
    float_error: float = 2e-5  # the same by what no recipe rounds: norms, rope, attention
    attention_error: float = 2e-5  # the same by attention, of keys and values as they are held
    # Of keys and values in 8 bits: steps beyond the half that rounding allows; how many times as
    # large scales are as their own channels need, in the middle; the share that is clipped.
    cache_step_error: float = 1e-3
    cache_coarseness: float = 2.2
    cache_clipped: float = 5e-3
    scale: float = 1.0  # that the user asked for; in all of the above


# The same sums in another order: rounding only, never a different token.
_FP32 = Tolerance(
    max_logit_difference=2e-4,
    mean_kl=1e-6,
    same_top=1.0,
    greedy_is_identical=True,
    random=1.0,
    cache_error=1e-4,
    typical_cache_error=1e-5,
    weight_error=1e-6,
    linear_error=2e-5,
)
# Weights and activations rounded to 8 bits: half of 1 in 127 steps a weight. Random tokens are
# nothing that a model was trained on; its activations are wilder there, and so is their rounding.
_INT8 = Tolerance(
    max_logit_difference=None,
    mean_kl=1e-3,
    same_top=0.98,
    greedy_is_identical=False,
    random=2.0,
    cache_error=0.15,
    typical_cache_error=0.05,
    weight_error=0.5 / 127 * 1.01,
    linear_error=0.03,
)
# Layers and embedding rounded to the nearest of 16 steps a block, the head to 8 bits: half of a
# step is a fifteenth of a block's largest weight, where the block reaches as far on both sides.
# These bounds on logits are wide. What hides in them, a window off by one for example, does not
# hide from the operators and the weights one by one: their bounds are as tight as in fp32.
_INT4 = Tolerance(
    max_logit_difference=None,
    mean_kl=6e-2,
    same_top=0.85,
    greedy_is_identical=False,
    random=1.46,
    cache_error=None,
    typical_cache_error=0.4,
    weight_error=1 / 15 * 1.01,
    linear_error=0.03,
)
# As int8, but a row of weights shares one scale where int8 has blocks, and so does a position of
# what they multiply; smoothing and the parts of the last projection make up for most of it. Worst
# of nine seeds: 8.0e-4 nats and 97.7 % on text, 1.35e-3 and 96.9 % on random tokens.
_INT8_DYNAMIC = dataclasses.replace(_INT8, same_top=0.97, random=1.6)
_BOUNDS = {"fp32": _FP32, "int8": _INT8, "int4": _INT4, "int8-dynamic": _INT8_DYNAMIC}
_BY_BITS = {32: _FP32, 8: _INT8, 4: _INT4}


def _with_int8_cache(bounds: Tolerance) -> Tolerance:
    """The same where keys and values are rounded to 8 bits, by scales known beforehand.

    Rounding adds to what the weights' costs: 1e-3 nats is what we allow, on text of the kind that
    the model knows (1.4e-4 and 5.8e-4 on the trained models in float32, with 0.9 % and 1.2 % of
    tops). A row that is small beside its channels' largest may
    be off by much of itself, so that only the median of rows is bounded on whole sequences. The
    rows themselves are held to half a step, one by one. Where a number lies halfway between two
    steps, rope's own rounding decides: attention may read the other.
    """
    return dataclasses.replace(
        bounds,
        max_logit_difference=None,
        mean_kl=bounds.mean_kl + 1e-3,
        same_top=bounds.same_top - 0.02,
        greedy_is_identical=False,
        random=max(bounds.random, 2.0),
        cache_error=None,
        typical_cache_error=bounds.typical_cache_error + 0.06,
        attention_error=2e-3,
    )


# Same tops and divergence are means: over fewer positions one token decides.
FEWEST_POSITIONS = 256


def tolerance_for(quant: str, *, int8_cache: bool = False, scale: float = 1.0) -> Tolerance:
    """The bounds of one recipe; ``scale`` above 1 loosens them all, below 1 it tightens them.

    Args:
        quant: as in ``recipe.QUANTS``.
        int8_cache: whether keys and values are held in 8 bits.
        scale: of all bounds.

    Raises:
        ContractError: a recipe that this version does not know, or a scale that is not above 0.
    """
    if quant not in _BOUNDS:
        raise ContractError(
            f"recipe {quant!r}: no tolerance is known, expected one of {', '.join(_BOUNDS)}; "
            "export again"
        )
    if not 0 < scale < float("inf"):
        raise ContractError(f"--tolerance {scale}: expected a number above 0; 1 is the default")
    bounds = _with_int8_cache(_BOUNDS[quant]) if int8_cache else _BOUNDS[quant]
    largest, row = bounds.max_logit_difference, bounds.cache_error
    return dataclasses.replace(
        bounds,
        max_logit_difference=None if largest is None else largest * scale,
        mean_kl=bounds.mean_kl * scale,
        same_top=1 - (1 - bounds.same_top) * scale,
        greedy_is_identical=bounds.greedy_is_identical and scale <= 1,
        cache_error=None if row is None else row * scale,
        typical_cache_error=bounds.typical_cache_error * scale,
        weight_error=bounds.weight_error * scale,
        linear_error=bounds.linear_error * scale,
        float_error=bounds.float_error * scale,
        attention_error=bounds.attention_error * scale,
        cache_step_error=bounds.cache_step_error * scale,
        cache_coarseness=bounds.cache_coarseness * scale,
        cache_clipped=bounds.cache_clipped * scale,
        scale=scale,
    )


def weight_error_for(bits: int, tolerance: Tolerance) -> float:
    """The bound on one weight by the bits of its matrix: a recipe mixes them."""
    return _BY_BITS.get(bits, _INT4).weight_error * tolerance.scale


def linear_error_for(bits: int, tolerance: Tolerance) -> float:
    """The bound on one multiplication by the bits of its matrix."""
    return _FP32.linear_error * tolerance.scale if bits == 32 else tolerance.linear_error
