"""What differs between the architectures of ``config.json``: defaults, and what layers have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import MistralConfig, Windows

Published = Mapping[str, Any]  # a config.json


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One class of transformers, and how its ``config.json`` is read and written."""

    name: str  # of the class, as ``architectures`` has it
    model_type: str
    # Of keys that a config.json leaves out: those of the class in transformers, which documents
    # them.
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    head_dim: int | None = None  # None: hidden_size over num_attention_heads
    has_as_many_kv_heads: bool = False  # as query heads, by default; else there is no safe guess
    # Windows of a config.json with so many layers.
    windows: Callable[[Published, int], Windows]
    # Numbers of the layers without rope, likewise.
    unrotated_layers: Callable[[Published, int], tuple[int, ...]] = lambda *_: ()
    # Rope of a config.json that describes none; empty: ``rope_theta`` alone.
    rope: Mapping[str, Any] = field(default_factory=dict)
    scales_queries: bool = False  # by their position, where rope's parameters say so
    parts: Mapping[str, Any] = field(default_factory=dict)  # that all its models have
    # The keys that say of a config what ``windows`` and ``unrotated_layers`` read.
    layers_as_json: Callable[[MistralConfig], dict[str, Any]]
    # The class of the same model with a window in all layers, and in some; None: the same class.
    with_window: str | None = None
    with_layer_windows: str | None = None
    with_query_scale: str | None = None  # that of one whose queries are scaled
