"""Rope (rotary position embedding): kinds, inverse frequencies, tables and the rotation.

A kind is a function of ``rope_parameters``, an object as in Hugging Face's ``config.json``. To add
one, write the function and enter it in ``KINDS``. Every kind has the bits of transformers 5.23,
``modeling_rope_utils.py``: a last bit of a frequency is a different angle at large positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...runtime.errors import ConfigError
from ..config import MistralConfig
from ..formats.metadata_fields import flag, number, shown
from ..formats.rope_layout import RopeLayout

Tables = tuple[Tensor, Tensor]  # cosines and sines, (T, D / 2) each


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rope:
    """Angles by which queries and keys are rotated."""

    name: str  # of the kind
    inverse_frequencies: Tensor  # (D / 2,) float32; radians from one position to the next
    attention_factor: float = 1.0  # cosines and sines are multiplied by it

    def tables(self, num_positions: int, *, start: int = 0) -> Tables:
        """Cosines and sines of consecutive positions: (num_positions, D / 2) float32 each."""
        return self.tables_at(torch.arange(start, start + num_positions).float())

    def tables_at(self, positions: Tensor) -> Tables:
        """Cosines and sines of positions (T,) float32: (T, D / 2) float32 each."""
        angles = positions[:, None] * self.inverse_frequencies
        return angles.cos() * self.attention_factor, angles.sin() * self.attention_factor


def rope_of(config: MistralConfig) -> Rope:
    """Make the rope of a model."""
    return make_rope(
        {"rope_type": "default", "rope_theta": config.rope_theta},
        head_dim=config.head_dim,
        max_positions=config.max_position_embeddings,
    )


def rope_tables(config: MistralConfig) -> Tables:
    """Cosines and sines of all positions of a model: (P, D / 2) float32 each."""
    return rope_of(config).tables(config.max_position_embeddings)


def make_rope(parameters: Mapping[str, Any], *, head_dim: int, max_positions: int) -> Rope:
    """Make a rope from parameters with the names and defaults of Hugging Face's ``config.json``.

    Args:
        parameters: ``rope_parameters``; ``rope_type`` names the kind, "default" where it is
            missing.
        head_dim: D, an even number.
        max_positions: ``max_position_embeddings``; the original context length where
            ``original_max_position_embeddings`` is missing.

    Raises:
        ConfigError: there is no such kind, or a parameter is missing or out of its range.

    Source: transformers 5.23, ``RotaryEmbeddingConfigMixin.standardize_rope_params``.
    """
    name = parameters.get("rope_type", "default")
    if not isinstance(name, str) or name not in KINDS:
        raise ConfigError(f"rope_type is {shown(name)}; expected one of {', '.join(KINDS)}")
    filled = {
        "original_max_position_embeddings": max_positions,
        **parameters,
        "max_position_embeddings": max_positions,
    }
    frequencies, attention_factor = KINDS[name](filled, head_dim)
    return Rope(name=name, inverse_frequencies=frequencies, attention_factor=attention_factor)


def default(parameters: Mapping[str, Any], head_dim: int) -> tuple[Tensor, float]:
    """``theta ** (-2 d / D)``, float32 throughout.

    Source: RoFormer, arXiv:2104.09864, section 3.2.2; transformers 5.23, modeling_llama.py,
        ``compute_default_rope_parameters``.
    """
    return 1.0 / _positions_per_radian(parameters, head_dim), 1.0


def linear(parameters: Mapping[str, Any], head_dim: int) -> tuple[Tensor, float]:
    """Position interpolation: all frequencies divided by ``factor``.

    Source: Position Interpolation, arXiv:2306.15595, section 2.3; transformers 5.23,
        ``_compute_linear_scaling_rope_parameters``.
    """
    plain, _ = default(parameters, head_dim)
    return plain / _above_zero(parameters, "factor"), 1.0


def llama3(parameters: Mapping[str, Any], head_dim: int) -> tuple[Tensor, float]:
    """Divide low frequencies by ``factor``, keep high ones, and blend linearly in between.

    A frequency is low where fewer than ``low_freq_factor`` of its periods fit in the original
    context, and high where more than ``high_freq_factor`` do.

    Source: meta-llama/llama-models, models/llama3/model.py, ``apply_scaling``; transformers 5.23,
        ``_compute_llama3_parameters``.
    """
    factor = _above_zero(parameters, "factor")
    low, high = (_above_zero(parameters, f"{name}_freq_factor") for name in ("low", "high"))
    if low >= high:
        raise ConfigError(
            f"low_freq_factor is {low}, high_freq_factor {high}; expected low below high"
        )
    original = _above_zero(parameters, "original_max_position_embeddings")
    plain, _ = default(parameters, head_dim)
    periods = 2 * math.pi / plain  # in positions
    share = (original / periods - low) / (high - low)
    blended = (1 - share) * plain / factor + share * plain
    scaled = torch.where(periods > original / low, plain / factor, blended)
    return torch.where(periods < original / high, plain, scaled), 1.0


def yarn(parameters: Mapping[str, Any], head_dim: int) -> tuple[Tensor, float]:
    """YaRN: "NTK by parts" interpolation, and a factor on attention.

    Dimensions that rotate more than ``beta_fast`` times within the original context keep their
    frequencies, those that rotate fewer than ``beta_slow`` times have them divided by ``factor``,
    and those in between are blended linearly.

    Source: YaRN, arXiv:2309.00071, sections 3.2 and 3.4; jquesnelle/yarn,
        scaled_rope/LlamaYaRNScaledRotaryEmbedding.py; transformers 5.23,
        ``_compute_yarn_parameters``.
    """
    original = _above_zero(parameters, "original_max_position_embeddings")
    has_factor = "factor" in parameters  # null, as of DeepSeek-V3, means the ratio of the lengths
    ratio = number(parameters, "max_position_embeddings", float) / original
    factor = _above_zero(parameters, "factor", ratio if has_factor else None)
    lengths = _positions_per_radian(parameters, head_dim)
    first, last = _yarn_range(parameters, head_dim, original)
    steps = torch.arange(head_dim // 2, dtype=torch.float32)
    kept = 1 - ((steps - first) / (last - first)).clamp(0, 1)
    frequencies = 1.0 / (factor * lengths) * (1 - kept) + 1.0 / lengths * kept
    return frequencies, _yarn_attention_factor(parameters, factor)


def _yarn_range(
    parameters: Mapping[str, Any], head_dim: int, original: float
) -> tuple[float, float]:
    """Dimensions between which ``yarn`` blends; whole ones unless ``truncate`` is false."""
    theta = number(parameters, "rope_theta", float)
    if theta <= 1:
        raise ConfigError(f"rope_theta is {theta}; yarn needs one above 1")
    fast, slow = (
        _above_zero({name: parameters.get(name) or None}, name, usual)
        for name, usual in (("beta_fast", 32.0), ("beta_slow", 1.0))
    )
    if fast < slow:
        raise ConfigError(f"beta_fast is {fast}; expected at least beta_slow, {slow}")
    first, last = (
        head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))
        for rotations in (fast, slow)
    )
    if flag({"truncate": parameters.get("truncate", True)}, "truncate"):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    return first, last + 0.001 if first == last else last


def _yarn_attention_factor(parameters: Mapping[str, Any], factor: float) -> float:
    """The published one, else ``0.1 ln(factor) + 1``, or a ratio of two such with ``mscale``."""
    if parameters.get("attention_factor") is not None:
        return _above_zero(parameters, "attention_factor")

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    one, other = (number(parameters, f"mscale{which}", float, 0.0) for which in ("", "_all_dim"))
    return scale(one) / scale(other) if one and other else scale(1)


# Rope kinds by ``rope_type``: parameters and head size to inverse frequencies (D / 2,) float32
# and attention factor.
KINDS: dict[str, Callable[[Mapping[str, Any], int], tuple[Tensor, float]]] = {
    "default": default,
    "linear": linear,
    "llama3": llama3,
    "yarn": yarn,
}


def rotate(x: Tensor, tables: Tables, *, layout: RopeLayout = "halves") -> Tensor:
    """Rotate queries or keys by the angles of their positions.

    Args:
        x: (..., T, D) float.
        tables: cosines and sines, (T, D / 2) as x.
        layout: ``halves`` rotates dimension d with d + D / 2, ``pairs`` 2 d with 2 d + 1.

    Source: RoFormer, arXiv:2104.09864, section 3.4.2 (pairs); transformers' ``rotate_half``
        (halves).
    """
    cos, sin = tables
    if layout == "pairs":
        first, second = x[..., ::2], x[..., 1::2]
    else:
        first, second = x.chunk(2, dim=-1)
    rotated = first * cos - second * sin, second * cos + first * sin
    return torch.stack(rotated, -1).flatten(-2) if layout == "pairs" else torch.cat(rotated, -1)


def _positions_per_radian(parameters: Mapping[str, Any], head_dim: int) -> Tensor:
    """``theta ** (2 d / D)``, one over the unscaled frequencies: (D / 2,) float32."""
    theta = _above_zero(parameters, "rope_theta")
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    lengths: Tensor = theta**exponents
    return lengths


def _above_zero(parameters: Mapping[str, Any], name: str, usual: float | None = None) -> float:
    value = float(number(parameters, name, float, usual))
    if value <= 0:
        raise ConfigError(f"{name} is {value}; expected a number above 0")
    return value
