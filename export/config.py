"""Which numbers fix the architecture? (no torch)"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import ConfigError
from .formats.held_files import HeldFile

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
_ABOVE_ZERO = ("rms_norm_eps", "rope_theta")
_LARGEST = {int: 2**63 - 1, float: sys.float_info.max}  # graphs have sizes of 64 bits
_DEMANDED = {int: "whole, below 2**63", float: "finite"}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class MistralConfig:
    """Architecture of one checkpoint; names follow Hugging Face ``config.json``."""

    architecture: str  # MistralForCausalLM or LlamaForCausalLM
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
    # all layers have ``sliding_window``; no checkpoint format that is read gives anything else.
    layer_windows: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
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
                f"layer_windows is {shown(list(windows))}; expected windows of at least 1 that "
                f"differ, the largest of them sliding_window ({self.sliding_window})"
            )

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Window of each layer; None: a query sees all keys before it."""
        return self.layer_windows or (self.sliding_window,) * self.num_hidden_layers

    def with_windows(self, windows: Sequence[int | None]) -> MistralConfig:
        """The same architecture with these windows, one for each layer."""
        return dataclasses.replace(
            self,
            sliding_window=max((one for one in windows if one is not None), default=None),
            layer_windows=tuple(windows) if len(set(windows)) > 1 else (),
        )

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights; a head that is tied to the embedding counts once."""
        M, D = self.hidden_size, self.head_dim
        H, G = self.num_attention_heads, self.num_key_value_heads
        attention = 2 * M * H * D + 2 * M * G * D  # query and output, key and value
        layer = attention + 3 * M * self.intermediate_size + 2 * M
        matrices = 1 if self.tie_word_embeddings else 2
        return matrices * self.vocab_size * M + self.num_hidden_layers * layer + M


def config_from_json(content: Mapping[str, Any]) -> MistralConfig:
    """The config that ``dataclasses.asdict`` described, from JSON."""
    lists = {name: tuple(content[name]) for name in ("eos_token_ids", "layer_windows")}
    return MistralConfig(**{**content, **lists})


def read_json_object(path: Path | HeldFile) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ConfigError: it is not JSON, or JSON of another kind.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def number(
    published: Mapping[str, Any],
    name: str,
    kind: type[int] | type[float],
    default: float | None = None,
) -> Any:
    """Read one number of a published description; a missing or null one means ``default``.

    Raises:
        ConfigError: there is neither a value nor a default, or the value is not of that kind.
    """
    value = published.get(name)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"{name} is missing, and its format documents no default for it")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is(value, kind):
        raise ConfigError(f"{name} is {shown(value)}; expected a number ({_DEMANDED[kind]})")
    return kind(value)


def _is(value: float, kind: type[int] | type[float]) -> bool:
    return abs(value) <= _LARGEST[kind] and kind(value) == value  # false of NaN as well


def flag(published: Mapping[str, Any], name: str) -> bool:
    """Read one claim of a published description; a missing or null one is false.

    Raises:
        ConfigError: it is neither true nor false.
    """
    value = published.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {shown(value)}; expected true or false")
    return value


def token_id(published: Mapping[str, Any], name: str) -> int | None:
    """Read one token id of a published description; None where it is missing or null.

    Raises:
        ConfigError: it is not a whole number of at least 0.
    """
    if published.get(name) is None:
        return None
    found = int(number(published, name, int))
    if found < 0:
        raise ConfigError(f"{name} is {found}; expected at least 0, or null for no such token")
    return found


def token_ids(published: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Read one token id, or a list of them, of a published description; () where there is none.

    Raises:
        ConfigError: an id is not a whole number of at least 0, or a list has a null.
    """
    value = published.get(name)
    listed = value if isinstance(value, list) else [value]
    found = tuple(token_id({name: each}, name) for each in listed)
    if isinstance(value, list) and None in found:
        raise ConfigError(f"{name} is {shown(value)}; expected no null among several ids")
    return tuple(each for each in found if each is not None)


def shown(value: object) -> str:
    """A published value as messages show it: one line, however large it is."""
    return _SHORT.repr(value)
