"""Bounds on all figures, and the reason for each.

Two questions have different bounds. *Does the artifact compute what its recipe says?* A weight
may differ by half a quantization step, an operator by a few roundings of float32, a whole
sequence by a small multiple of the noise floor, which ``recipe_reference`` measures on the model
at hand. No such bound comes from another model. *How far does the recipe move the model?* That
depends on model and recipe; it fails only if the artifact is of no use (``max_kl``,
``min_agreement``), unless the user sets stricter bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..graphs.quantization.methods.round_to_nearest import METHOD as ROUND_TO_NEAREST
from ..runtime.errors import ContractError

# Beyond these an artifact is of no use. Trained models in 4 bits stay within them even on text
# unlike their training data; random outputs are at 0 % and many nats.
MAX_KL, MIN_AGREEMENT = 2.0, 0.2
# The largest mean KL of a model whose weights stay in float and whose cache is in half precision:
# the cost of rounding keys and values alone. Measured: 1e-7 on the bundled model.
MAX_KL_OF_HALF = 1e-4
_HALF_ATTENTION = 1.5e-4

# The bound on one weight in float, which is written as it was read, relative to the largest of its
# row. Those on quantized weights come from the method that rounded them.
_FLOAT_WEIGHT_ERROR = 1e-6
# Means over fewer positions depend on single tokens.
FEWEST_POSITIONS = 256
# Of the largest KL of the noise floor: positions below it moved in float's last bits alone.
_MOVED = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """The noise floor: how far the reference moves when its inputs change in the last bits."""

    kl: np.ndarray  # (T,) nats
    difference: np.ndarray  # (T,) largest |Δlogit|
    row_error: float  # of the worst row of keys or values, relative to its length
    mean_row_error: float  # over the few neighbouring rows where it is largest

    def mean_kl(self, positions: int) -> float:
        """The mean KL, of all positions or of the first, whichever is larger.

        An activation halfway between two steps may be rounded to the other one, which moves the
        positions that read it. In a tiny model such activations are few, and how many positions
        they move is chance: where fewer than half moved, the mean is that of those that did.
        """
        moved = self.kl[self.kl >= _MOVED * self.kl.max()]
        every = self.kl if 2 * len(moved) >= len(self.kl) else moved
        return float(max(every.mean(), self.kl[:positions].mean()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Bounds on all figures; the recipe's bounds are already multiplied by ``scale``."""

    noise: float = 3.0  # times the noise floor: of sequences' logits and cached rows
    weight_error: dict[int, float]  # by bits; of one weight, relative to the largest of its block
    # Of a matrix that is rounded for its inputs, by GPTQ: how far its outputs move on other text,
    # over how far they move where it is rounded to nearest.
    rounding_error: float = 1.0
    float_error: float = 2e-5  # of one position, by an operator, relative to its length
    # The same for a matmul that quantizes activations. Some kernels sum codes around 128 and
    # subtract the offset afterwards, in float32: 1.5e-5 on arm64, 1e-6 on x86-64.
    rounded_error: float = 1e-4
    attention_error: float = 2e-5  # the same for attention, on the cached keys and values
    # Of int8 keys and values: steps beyond the half that rounding allows; median of scales over
    # those that fit their channels; share of clipped values.
    cache_step_error: float = 1e-3
    cache_coarseness: float = 2.2
    cache_clipped: float = 5e-3
    max_kl: float = MAX_KL  # nats, mean over text, of the float32 model from the artifact
    min_agreement: float = MIN_AGREEMENT  # share of positions with the same most likely token
    scale: float = 1.0  # as the user set it

    def weight_error_for(self, bits: int) -> float:
        """The bound on one weight, by the bits of its matrix."""
        return self.weight_error.get(bits, max(self.weight_error.values()))

    def logits_bounds(self, floor: Floor | None, positions: int) -> dict[str, float]:
        """Bounds on a sequence's figures; means are bounded only over enough positions."""
        if floor is None:
            return {}
        bounds = {"max_logit_difference": self.noise * float(floor.difference.max())}
        if positions >= FEWEST_POSITIONS:
            bounds["mean_kl"] = self.noise * floor.mean_kl(positions)
        return bounds

    def cache_bounds(self, floor: Floor | None) -> dict[str, float]:
        """Bounds on the drift of cached rows."""
        if floor is None:
            return {}
        return {
            "cache_error": self.noise * floor.row_error,
            "mean_cache_error": self.noise * floor.mean_row_error,
        }

    def greedy_bound(self, floor: Floor | None) -> dict[str, float]:
        """The bound on how far a chosen token's logit may be below the reference's largest.

        Both logits may be off by as much as any.
        """
        found = self.logits_bounds(floor, 0)
        return {"greedy_gap": 2 * found["max_logit_difference"]} if found else {}


def tolerance_for(
    weight_errors: Mapping[int, float] = ROUND_TO_NEAREST.weight_errors,
    *,
    int8_cache: bool = False,
    half_cache: bool = False,
    scale: float = 1.0,
    max_kl: float = MAX_KL,
    min_agreement: float = MIN_AGREEMENT,
) -> Tolerance:
    """All bounds; ``scale`` above 1 loosens the recipe's bounds, below 1 tightens them.

    Args:
        weight_errors: by bits, the bound on one weight's error of what rounded the weights.
        int8_cache: whether keys and values are int8. If a value lies halfway between two steps,
            the last bit of rope decides, so attention may read the other one: a row of D values
            is then off by up to one step in one of them.
        half_cache: whether they are in half precision, where the same holds of steps a sixteenth
            as large.
        scale: factor on the recipe's bounds.
        max_kl: nats that the artifact may be from the float32 model, mean over text.
        min_agreement: share of positions of text with the same most likely token, at least.

    Raises:
        ContractError: an invalid bound.
    """
    for flag, value, expected, is_right in (
        ("--tolerance", scale, "a number above 0; 1 is the default", 0 < scale < float("inf")),
        ("--max-kl", max_kl, "a number above 0, in nats", 0 < max_kl < float("inf")),
        ("--min-agreement", min_agreement, "a share from 0 to 1", 0 <= min_agreement <= 1),
    ):
        if not is_right:
            raise ContractError(f"{flag} {value}: expected {expected}")
    plain = Tolerance(weight_error={32: _FLOAT_WEIGHT_ERROR, **weight_errors})
    return dataclasses.replace(
        plain,
        noise=plain.noise * scale,
        weight_error={bits: bound * scale for bits, bound in plain.weight_error.items()},
        rounding_error=plain.rounding_error * scale,
        float_error=plain.float_error * scale,
        rounded_error=plain.rounded_error * scale,
        attention_error=(
            2e-3 if int8_cache else _HALF_ATTENTION if half_cache else plain.attention_error
        )
        * scale,
        cache_step_error=plain.cache_step_error * scale,
        cache_coarseness=plain.cache_coarseness * scale,
        cache_clipped=plain.cache_clipped * scale,
        max_kl=max_kl,
        min_agreement=min_agreement,
        scale=scale,
    )
