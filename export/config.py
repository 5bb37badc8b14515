"""The architecture of a checkpoint as one frozen dataclass (no torch)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..runtime.errors import ConfigError
from .largest_sizes import refuse_beyond
from .rope_parameters import KIND, ORIGINAL, QUERY_SCALE, THETA, fill_in

_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_TUPLES = ("eos_token_ids", "layer_windows", "other_windows", "unrotated_layers")
_ABOVE_ZERO = ("rms_norm_eps", "rope_theta")


# Of each layer; None: a query sees all keys before it.
Windows = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MistralConfig:
    """Architecture of one checkpoint; names follow Hugging Face ``config.json``."""

    architecture: str  # as in ``export/architectures/all_architectures.py``
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    sliding_window: int | None  # keys a query sees, itself included; None: all before it
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    # Window of each layer where they differ: ``sliding_window`` is then the largest. Empty where
    # all layers have ``sliding_window``.
    layer_windows: Windows = ()
    # Windows in another file of the checkpoint that says otherwise; --window decides.
    other_windows: Windows = ()
    has_qkv_bias: bool = False  # added to what makes queries, keys and values
    has_head_norms: bool = False  # over each head's query and key, before rope
    unrotated_layers: tuple[int, ...] = ()  # without rope
    # Parameters of rope besides its theta, as ``fill_in`` returns them; empty: not scaled.
    rope_scaling: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        refuse_beyond(self)
        for name in _ABOVE_ZERO:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; expected a finite number above 0"
                )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim}; rope needs an even one")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ConfigError(
                f"sliding_window is {self.sliding_window}; expected at least 1, "
                "or null for attention without a window"
            )
        if self.layer_windows:
            self._refuse_odd_windows()
        if not set(self.unrotated_layers) <= set(range(self.num_hidden_layers)):
            raise ConfigError(
                f"unrotated_layers is {list(self.unrotated_layers)}; expected numbers from 0 to "
                f"{self.num_hidden_layers - 1}, the layers"
            )
        filled = fill_in(
            {THETA: self.rope_theta, **self.rope_scaling},
            max_positions=self.max_position_embeddings,
        )
        object.__setattr__(self, "rope_scaling", _beside_theta(filled))

    def _refuse_odd_windows(self) -> None:
        windows = self.layer_windows
        if len(windows) != self.num_hidden_layers:
            raise ConfigError(
                f"layer_windows has {len(windows)} entries; expected one for each of the "
                f"{self.num_hidden_layers} layers"
            )
        numbers = [window for window in windows if window is not None]
        if len(set(windows)) == 1 or min(numbers) < 1 or max(numbers) != self.sliding_window:
            raise ConfigError(
                f"layer_windows is {list(windows)}; expected windows of at least 1 that "
                f"differ, the largest of them sliding_window ({self.sliding_window})"
            )

    @property
    def windows(self) -> Windows:
        """Window of each layer; None: a query sees all keys before it."""
        return self.layer_windows or (self.sliding_window,) * self.num_hidden_layers

    def with_windows(self, windows: Sequence[int | None]) -> MistralConfig:
        """The same architecture with these windows, one for each layer."""
        return dataclasses.replace(self, **describe_windows(windows), other_windows=())

    @property
    def query_scale(self) -> tuple[float, float] | None:
        """How much queries grow with their position, and after how many; None: not at all.

        A query at position i is multiplied by ``1 + beta * ln(1 + floor(i / original))``.
        """
        found = self.rope_scaling
        return (found[QUERY_SCALE], found[ORIGINAL]) if QUERY_SCALE in found else None

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights; a head that is tied to the embedding counts once."""
        M, D = self.hidden_size, self.head_dim
        H, G = self.num_attention_heads, self.num_key_value_heads
        attention = 2 * M * H * D + 2 * M * G * D  # query and output, key and value
        attention += (H + 2 * G) * D if self.has_qkv_bias else 0
        attention += 2 * D if self.has_head_norms else 0
        layer = attention + 3 * M * self.intermediate_size + 2 * M
        matrices = 1 if self.tie_word_embeddings else 2
        return matrices * self.vocab_size * M + self.num_hidden_layers * layer + M


def describe_windows(windows: Sequence[int | None]) -> dict[str, Any]:
    """The fields that say windows of layers.

    >>> describe_windows([8, 8]), describe_windows([None, 8])["layer_windows"]
    ({'sliding_window': 8, 'layer_windows': ()}, (None, 8))
    """
    return {
        "sliding_window": max((one for one in windows if one is not None), default=None),
        "layer_windows": tuple(windows) if len(set(windows)) > 1 else (),
    }


def repeated(pattern: Windows, layers: int) -> Windows:
    """A pattern of windows, as often as it fits into so many layers."""
    return pattern * (layers // len(pattern))


def _beside_theta(filled: dict[str, Any]) -> dict[str, Any]:
    """Parameters without theta; none where they say what a theta alone says."""
    beside = {name: value for name, value in filled.items() if name != THETA}
    is_plain = beside in ({KIND: "default"}, {KIND: "linear", "factor": 1})
    return {} if is_plain else beside


def config_from_json(content: Mapping[str, Any]) -> MistralConfig:
    """The config that ``dataclasses.asdict`` described, from JSON."""
    lists = {name: tuple(content[name]) for name in _TUPLES}
    return MistralConfig(**{**content, **lists})
