"""Parameters of rope as checkpoints describe it: what each kind reads, checked. (no torch)

Names are those of ``rope_parameters`` in Hugging Face's ``config.json``. ``export/model/rope.py``
computes frequencies from what ``fill_in`` returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..runtime.errors import ConfigError
from ..runtime.untrusted.fields import shown
from .files.metadata_fields import flag, number

KIND, THETA, ORIGINAL = "rope_type", "rope_theta", "original_max_position_embeddings"
QUERY_SCALE = "llama_4_scaling_beta"

# Kinds that are not supported, and what each would take.
_OTHERS = {
    "dynamic": "its frequencies change as a sequence grows, and cached keys have the old ones",
    "longrope": "it changes to other frequencies past the original length, and cached keys have "
    "the old ones",
}
_OTHERS["su"] = _OTHERS["longrope"]  # its name before transformers 4.45


def fill_in(parameters: Mapping[str, Any], *, max_positions: int) -> dict[str, Any]:
    """The parameters that a kind reads, with the defaults of those that are left out.

    Filling in twice changes nothing. What the kind does not read is left out.

    Args:
        parameters: ``rope_parameters``; ``rope_type`` names the kind, "default" where it is
            missing.
        max_positions: ``max_position_embeddings``; the original context length where
            ``original_max_position_embeddings`` is missing.

    Raises:
        ConfigError: there is no such kind, or a parameter is missing or out of its range.

    Source: transformers 5.23, ``RotaryEmbeddingConfigMixin.standardize_rope_params``, and
        ``get_llama_4_attn_scale`` of modeling_ministral3.py.
    """
    kind = parameters.get(KIND, "default")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"rope_type is {shown(kind)}; expected {_expected(kind)}")
    filled = {KIND: kind, THETA: above_zero(parameters, THETA)}
    filled |= KINDS[kind](parameters, max_positions)
    beta = number(parameters, QUERY_SCALE, float, 0.0)
    if beta < 0:
        raise ConfigError(f"{QUERY_SCALE} is {beta}; expected at least 0")
    if beta:
        filled |= {QUERY_SCALE: beta, ORIGINAL: _original(parameters)}
    return filled


def _expected(kind: Any) -> str:
    supported = f"one of {', '.join(KINDS)}"
    needs = _OTHERS.get(kind) if isinstance(kind, str) else None
    return supported if needs is None else f"{supported} (not supported: {needs})"


def _default(parameters: Mapping[str, Any], max_positions: int) -> dict[str, Any]:  # noqa: ARG001
    return {}


def _linear(parameters: Mapping[str, Any], max_positions: int) -> dict[str, Any]:  # noqa: ARG001
    return {"factor": above_zero(parameters, "factor")}


def _llama3(parameters: Mapping[str, Any], max_positions: int) -> dict[str, Any]:
    names = ("factor", "low_freq_factor", "high_freq_factor")
    filled = {name: above_zero(parameters, name) for name in names}
    low, high = filled["low_freq_factor"], filled["high_freq_factor"]
    if low >= high:
        raise ConfigError(
            f"low_freq_factor is {low}, high_freq_factor {high}; expected low below high"
        )
    return {**filled, ORIGINAL: _original(parameters, max_positions)}


def _yarn(parameters: Mapping[str, Any], max_positions: int) -> dict[str, Any]:
    """A factor that is null, as of DeepSeek-V3, means the ratio of the lengths."""
    theta = above_zero(parameters, THETA)
    if theta <= 1:
        raise ConfigError(f"rope_theta is {theta}; yarn needs one above 1")
    original = _original(parameters, max_positions)
    ratio = max_positions / original if "factor" in parameters else None
    filled: dict[str, Any] = {
        "factor": above_zero(parameters, "factor", ratio),
        ORIGINAL: original,
        # As in transformers, 0 means the default.
        **{
            name: above_zero({name: parameters.get(name) or None}, name, usual)
            for name, usual in (("beta_fast", 32.0), ("beta_slow", 1.0))
        },
    }
    fast, slow = filled["beta_fast"], filled["beta_slow"]
    if fast < slow:
        raise ConfigError(f"beta_fast is {fast}; expected at least beta_slow, {slow}")
    if "truncate" in parameters and not flag(parameters, "truncate"):  # null is false there
        filled["truncate"] = False
    if parameters.get("attention_factor") is not None:
        filled["attention_factor"] = above_zero(parameters, "attention_factor")
    weights = {name: number(parameters, name, float, 0.0) for name in ("mscale", "mscale_all_dim")}
    return filled | (weights if all(weights.values()) else {})  # one alone is not read


# Rope kinds by ``rope_type``: published parameters and positions to those that the kind reads.
KINDS: dict[str, Callable[[Mapping[str, Any], int], dict[str, Any]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
# Every name that a supported kind may have.
NAMES = (
    KIND,
    THETA,
    ORIGINAL,
    QUERY_SCALE,
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "truncate",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
)


def _original(parameters: Mapping[str, Any], usual: float | None = None) -> float:
    """The original length, whole where it can be: other programs demand that."""
    found = above_zero(parameters, ORIGINAL, usual)
    return int(found) if found.is_integer() else found


def above_zero(parameters: Mapping[str, Any], name: str, usual: float | None = None) -> float:
    """Read a number above 0; a missing or null one means ``usual``.

    Raises:
        ConfigError: there is neither, or it is not above 0.
    """
    value = float(number(parameters, name, float, usual))
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}; expected a number above 0")
    return value
