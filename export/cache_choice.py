"""The KV cache that an export asks for, and the sizes of inputs and outputs that follow."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.cache import CacheLayout, default_rows
from ..runtime.contract import CACHE_DTYPES, HALF, Geometry, is_quantized_cache
from ..runtime.errors import ConfigError
from .config import MistralConfig

# By the values of ``--cache``: whether the cache keeps the rows of all tokens.
CACHES = {"windowed": False, "growing": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheChoice:
    """How a graph holds keys and values, whatever the checkpoint."""

    grows: bool = False  # keep every token's row, those that a window hides included
    dtype: str = "float32"  # as in ``contract.CACHE_DTYPES``
    native_dtype: str = "float32"  # the same for the native library: ``dtype``, or half precision

    @property
    def is_quantized(self) -> bool:
        """Whether keys and values are stored as codes, whose scales must be calibrated."""
        return is_quantized_cache(self.dtype)


WINDOWED = CacheChoice()
GROWING = CacheChoice(grows=True)


def choose_cache(cache: str, *, kv: str) -> CacheChoice:
    """The cache by the values of ``--cache`` and ``--kv``.

    Raises:
        ConfigError: one of them is unknown.
    """
    if cache not in CACHES:
        raise ConfigError(f"--cache {cache}: unknown; expected one of {', '.join(CACHES)}")
    if kv not in CACHE_DTYPES:
        raise ConfigError(f"--kv {kv}: unknown; expected one of {', '.join(CACHE_DTYPES)}")
    return CacheChoice(grows=CACHES[cache], dtype="float32" if kv == HALF else kv, native_dtype=kv)


def geometry_of(config: MistralConfig, cache: CacheChoice) -> Geometry:
    """The sizes of a graph's inputs and outputs."""
    return Geometry(
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        layers=tuple(
            CacheLayout(window=window, rows=None if cache.grows else default_rows(window))
            for window in config.windows
        ),
        max_positions=config.max_position_embeddings,
        cache_dtype=cache.dtype,
    )
