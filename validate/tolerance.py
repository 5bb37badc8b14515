"""How much error is allowed, and why?"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ContractError


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Bounds on the figures of one check; None: not bounded."""

    max_logit_difference: float | None
    mean_kl: float  # nats
    same_top: float  # share of positions
    greedy_is_identical: bool


# float32 in another order of summation: a few 1e-6 per layer, never a different token.
_FP32 = Tolerance(
    max_logit_difference=2e-4, mean_kl=1e-6, same_top=1.0, greedy_is_identical=True
)
# Weights and activations rounded to 8 bits; Q8_0 of 7B models is known for 4e-4 to 1.4e-3 nats and
# 98 to 99 % same tops, which small models should beat, having fewer layers to add up.
_INT8 = Tolerance(
    max_logit_difference=None, mean_kl=1e-3, same_top=0.98, greedy_is_identical=False
)
_BY_QUANT = {"fp32": _FP32, "int8": _INT8}

# Same tops and divergence are means: over fewer positions than this they say too little.
FEWEST_POSITIONS = 32


def tolerance_for(quant: str) -> Tolerance:
    """The bounds of one recipe.

    Raises:
        ContractError: a recipe that this version does not know.
    """
    if quant not in _BY_QUANT:
        raise ContractError(f"manifest: quant {quant!r} is unknown; expected {sorted(_BY_QUANT)}")
    return _BY_QUANT[quant]
