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


# The same sums in another order: rounding only, never a different token.
_FP32 = Tolerance(max_logit_difference=2e-4, mean_kl=1e-6, same_top=1.0, greedy_is_identical=True)
# Weights and activations rounded to 8 bits.
_INT8_TEXT = Tolerance(
    max_logit_difference=None, mean_kl=1e-3, same_top=0.98, greedy_is_identical=False
)
# Random tokens are nothing that a model was trained on: its activations are wilder there, and so
# is their rounding. Set from what the embedded model measures (report.json has the figures), not
# from a principle: twice the text's divergence and twice its share of other tops.
_INT8_RANDOM = Tolerance(
    max_logit_difference=None, mean_kl=2e-3, same_top=0.96, greedy_is_identical=False
)
# Layers and embedding rounded to the nearest of 16 steps a block, the head to 8 bits. Set from
# what the embedded model measures, half as much again. They tell half a window, which doubles the
# divergence; a window off by one adds a few per cent and hides in them. fp32 and int8 tell that.
_INT4_TEXT = Tolerance(
    max_logit_difference=None, mean_kl=6e-2, same_top=0.85, greedy_is_identical=False
)
_INT4_RANDOM = Tolerance(
    max_logit_difference=None, mean_kl=1.1e-1, same_top=0.78, greedy_is_identical=False
)
_BOUNDS = {
    ("fp32", "text"): _FP32,
    ("fp32", "random"): _FP32,
    ("int8", "text"): _INT8_TEXT,
    ("int8", "random"): _INT8_RANDOM,
    ("int4", "text"): _INT4_TEXT,
    ("int4", "random"): _INT4_RANDOM,
}

# Same tops and divergence are means: over fewer positions one token decides.
FEWEST_POSITIONS = 256


def tolerance_for(quant: str, source: str) -> Tolerance:
    """The bounds of one recipe on one kind of tokens, ``text`` or ``random``.

    Raises:
        ContractError: a recipe that this version does not know.
    """
    if (quant, source) not in _BOUNDS:
        raise ContractError(f"no tolerance for quant {quant!r} on {source}; export again")
    return _BOUNDS[quant, source]
