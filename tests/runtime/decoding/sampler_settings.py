"""The types of a sampler's settings, for tests that hand them on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class SamplerSettings(TypedDict, total=False):
    """Arguments of ``Sampler``."""

    logit_bias: Mapping[int, float]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    seed: int
