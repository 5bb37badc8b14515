"""Rope (rotary position embedding): kinds, inverse frequencies, tables and the rotation.

A kind is a function of ``rope_parameters``, an object as in Hugging Face's ``config.json`` that
``export/rope_parameters.py`` has checked. To add one, write the function and enter it in ``KINDS``
here, and what it reads in ``KINDS`` there. Every kind has the bits of transformers 5.23,
``modeling_rope_utils.py``: a last bit of a frequency is a different angle at large positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import MistralConfig
from ..formats.rope_layout import RopeLayout
from ..rope_parameters import KIND, ORIGINAL, THETA, fill_in

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
        {"rope_theta": config.rope_theta, **config.rope_scaling},
        head_dim=config.head_dim,
        max_positions=config.max_position_embeddings,
    )


def rope_tables(config: MistralConfig) -> Tables:
    """Cosines and sines of all positions of a model: (P, D / 2) float32 each."""
    return rope_of(config).tables(config.max_position_embeddings)


def unrotated(tables: Tables) -> Tables:
    """Tables of as many positions that rotate nothing."""
    cos, sin = tables
    return cos.new_ones(()).expand_as(cos), sin.new_zeros(()).expand_as(sin)


def make_rope(parameters: Mapping[str, Any], *, head_dim: int, max_positions: int) -> Rope:
    """Make a rope from parameters with the names and defaults of Hugging Face's ``config.json``.

    Args:
        parameters: ``rope_parameters``, as ``fill_in`` takes them.
        head_dim: D, an even number.
        max_positions: ``max_position_embeddings``.

    Raises:
        ConfigError: there is no such kind, or a parameter is missing or out of its range.
    """
    filled = fill_in(parameters, max_positions=max_positions)
    frequencies, attention_factor = KINDS[filled[KIND]](filled, head_dim)
    return Rope(
        name=filled[KIND], inverse_frequencies=frequencies, attention_factor=attention_factor
    )


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
    return plain / parameters["factor"], 1.0


def llama3(parameters: Mapping[str, Any], head_dim: int) -> tuple[Tensor, float]:
    """Divide low frequencies by ``factor``, keep high ones, and blend linearly in between.

    A frequency is low where fewer than ``low_freq_factor`` of its periods fit in the original
    context, and high where more than ``high_freq_factor`` do.

    Source: meta-llama/llama-models, models/llama3/model.py, ``apply_scaling``; transformers 5.23,
        ``_compute_llama3_parameters``.
    """
    factor, original = parameters["factor"], parameters[ORIGINAL]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
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
    factor = parameters["factor"]
    lengths = _positions_per_radian(parameters, head_dim)
    first, last = _yarn_range(parameters, head_dim)
    steps = torch.arange(head_dim // 2, dtype=torch.float32)
    kept = 1 - ((steps - first) / (last - first)).clamp(0, 1)
    frequencies = 1.0 / (factor * lengths) * (1 - kept) + 1.0 / lengths * kept
    return frequencies, _yarn_attention_factor(parameters)


def _yarn_range(parameters: Mapping[str, Any], head_dim: int) -> tuple[float, float]:
    """Dimensions between which ``yarn`` blends; whole ones unless ``truncate`` is false."""
    first, last = (
        head_dim
        * math.log(parameters[ORIGINAL] / (parameters[name] * 2 * math.pi))
        / (2 * math.log(parameters[THETA]))
        for name in ("beta_fast", "beta_slow")
    )
    if parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    return first, last + 0.001 if first == last else last


def _yarn_attention_factor(parameters: Mapping[str, Any]) -> float:
    """The published one, else ``0.1 ln(factor) + 1``, or a ratio of two such with ``mscale``."""
    if "attention_factor" in parameters:
        return float(parameters["attention_factor"])

    def scale(weight: float) -> float:
        factor: float = parameters["factor"]
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    one, other = (parameters.get(f"mscale{which}", 0.0) for which in ("", "_all_dim"))
    return scale(one) / scale(other) if one and other else scale(1)


# Rope kinds by ``rope_type``: parameters as ``fill_in`` returns them and head size to inverse
# frequencies (D / 2,) float32 and attention factor.
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
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    lengths: Tensor = parameters[THETA] ** exponents
    return lengths
